// SPDX-License-Identifier: Apache-2.0
/*
 * Decides which rules match which payloads of a batch. sensor/native/batch_matcher.py builds the
 * structures and calls match_payloads(); sensor/rules/engine/stages.py describes the stages.
 * Nothing here allocates memory. Texts, offsets and sizes may come from hostile packets; databases
 * and structures come from this program.
 */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define MOST_STEPS 8
#define ENCODED (1u << 16)	/* a screen's bit for a text that percent-decoding may change */
#define MOST_DECODINGS 2
#define LONGEST 65536
#define CHECKED_BYTES 1024	/* a clock is read after so many bytes */
#define MOST_NS_PER_BYTE 40	/* that a scan is charged; the dearest that are known cost as much */
#define CREDIT_MOST 256	/* payloads that may cost more than their budget ... */
#define CREDIT_NS 10000000	/* ... of which there is one more after this time */
#define BLANK_LINE "\r\n\r\n"
#define BLANK_LINE_SIZE 4u

/* hs.h: hs_scan, hs_scan_stream, hs_reset_stream and match_event_handler. */
typedef int (*on_match)(unsigned id, unsigned long long from, unsigned long long to, unsigned flags,
			void *context);
typedef int (*scan_function)(const void *database, const char *data, unsigned size, unsigned flags,
			     void *scratch, on_match handler, void *context);
typedef int (*scan_stream_function)(void *stream, const char *data, unsigned size, unsigned flags,
				    void *scratch, on_match handler, void *context);
typedef int (*reset_stream_function)(void *stream, unsigned flags, void *scratch, on_match handler,
				     void *context);

enum part { TOTAL, HEAD, BODY };

/* The same expressions in block and in streaming mode; both are null if there are none. */
struct database {
	const void *whole;
	void *stream;
};

/* One decider: it scans PART if the screen calls for BIT. */
struct step {
	struct database database;
	uint32_t bit;
	uint32_t part;
};

struct stage {
	struct database screen;
	struct step steps[MOST_STEPS];
	uint32_t count;
	uint32_t reserved;
};

struct transport {
	struct database plain;
	struct stage raw;
	struct stage decoded;
};

/* What the current payload may cost. */
struct budget {
	int64_t limit_ns;	/* CPU time */
	int64_t cost_ns;	/* CPU time that has been charged */
	int64_t start_ns;	/* on the wall clock; 0: it has not been read */
	int64_t wall_end_ns;	/* the clock of CPU time is not read before this */
	uint32_t unchecked;	/* bytes that were worked on since the wall clock was read */
	uint16_t has_extra;	/* true if the limit has been raised */
	uint16_t is_cut;	/* true if a scan was broken off or left out */
	uint64_t uncharged;	/* bytes that were worked on since the clock of CPU time was read */
};

struct matcher {
	scan_function scan;
	scan_stream_function scan_stream;
	reset_stream_function reset_stream;
	void *scratch;
	uint64_t *found;	/* one bit per rule; all clear between payloads */
	const uint16_t *ports;	/* the port of each rule; 0: any */
	uint8_t *decoded;	/* room for a decoded payload */
	uint64_t decoded_size;
	int64_t least_ns;	/* CPU time that a payload may cost without regard to its size */
	int64_t most_ns;	/* the same if it has LONGEST bytes, or more */
	int64_t seen_wall_ns;	/* when the clock of CPU time was read last, and what it said */
	int64_t seen_cpu_ns;
	struct budget budget;
	int64_t extra_ns;	/* CPU time that a payload may cost beside, if there is credit */
	int64_t credit;		/* such payloads */
	int64_t credit_wall_ns;	/* when it was counted last */
	int64_t stop_ns;	/* CLOCK_MONOTONIC: after it no further payload is matched; 0: never */
	uint64_t *place;	/* gets the start of each payload before it is matched */
	uint32_t rules;
	uint32_t slice;		/* longer texts are scanned in slices of this size */
	uint32_t has_found;	/* nonzero if a bit of FOUND is set */
	uint32_t has_stopped;	/* nonzero if STOP_NS ended the last call */
	struct transport transports[3];
};

/* One entry per payload in each array. */
struct payloads {
	const uint8_t *data;
	int64_t size;		/* of the data */
	const int64_t *start;
	const int64_t *end;
	const uint8_t *transport;
	const uint8_t *is_http;
	const uint16_t *sport;
	const uint16_t *dport;
	uint8_t *incomplete;	/* set to 1 if not all rules were tried on all bytes, otherwise to 0 */
	int64_t *cost_ns;	/* set to the time that matching took, at most twice the budget; null: nobody asks */
	int64_t count;
};

/* The parts of a payload: the head ends at the first blank line, after which the body begins. */
struct text {
	const uint8_t *data;
	uint32_t size;
	uint32_t head_size;
};

const int64_t matcher_size = sizeof(struct matcher);

static int note_rule(unsigned id, unsigned long long from, unsigned long long to, unsigned flags,
		     void *context)
{
	struct matcher *matcher = context;

	(void)from;
	(void)to;
	(void)flags;
	if (id < matcher->rules) {
		matcher->found[id / 64] |= UINT64_C(1) << id % 64;
		matcher->has_found = 1;
	}
	return 0;
}

static int note_bits(unsigned id, unsigned long long from, unsigned long long to, unsigned flags,
		     void *context)
{
	uint32_t *bits = context;

	(void)from;
	(void)to;
	(void)flags;
	*bits |= id;
	return 0;
}

static int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	if (clock_gettime(clock, &now))
		return 0;
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* A clock is read only if the payload may take several scans, and is not so short that it ends first. */
static void start_budget(struct matcher *matcher, uint32_t size, bool is_http)
{
	struct budget *budget = &matcher->budget;
	int64_t share = size < LONGEST ? size : LONGEST;

	*budget = (struct budget){.limit_ns = matcher->least_ns +
					      (matcher->most_ns - matcher->least_ns) * share / LONGEST};
	if (size <= matcher->slice && (!is_http || size < CHECKED_BYTES))
		return;
	budget->start_ns = clock_ns(CLOCK_MONOTONIC);
	budget->wall_end_ns = budget->start_ns + budget->limit_ns / 4;
}

/*
 * Returns true if this payload may cost more than its budget. Any payload is slow if the processor's caches are
 * cold, or if memory is touched for the first time. Slow payloads are rare unless somebody sends many.
 */
static bool has_credit(struct matcher *matcher, int64_t wall_ns)
{
	int64_t earned = (wall_ns - matcher->credit_wall_ns) / CREDIT_NS;

	if (earned > 0) {
		matcher->credit = earned < CREDIT_MOST - matcher->credit ? matcher->credit + earned : CREDIT_MOST;
		matcher->credit_wall_ns = wall_ns;
	}
	if (!matcher->credit)
		return false;
	matcher->credit--;
	return true;
}

/*
 * Adds the CPU time since the last call to the cost of the payload. Interrupts and a hypervisor take their time
 * from the thread's, so only what is plausible for the bytes that were worked on is added, and the first time
 * no more than half of the budget: one such event does not spend it.
 */
static void charge(struct matcher *matcher, int64_t wall_ns)
{
	struct budget *budget = &matcher->budget;
	int64_t before_ns = matcher->seen_cpu_ns, most_ns = budget->uncharged * MOST_NS_PER_BYTE;
	int64_t cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID), cost_ns;

	if (matcher->seen_wall_ns < budget->start_ns) {
		/* The thread had no more CPU time until the payload began than wall time passed. */
		before_ns += budget->start_ns - matcher->seen_wall_ns;
		if (most_ns > budget->limit_ns / 2)
			most_ns = budget->limit_ns / 2;
	}
	cost_ns = cpu_ns > before_ns ? cpu_ns - before_ns : 0;
	budget->cost_ns += cost_ns < most_ns ? cost_ns : most_ns;
	budget->uncharged = 0;
	matcher->seen_wall_ns = wall_ns;
	matcher->seen_cpu_ns = cpu_ns;
}

/*
 * Returns true if nothing more may be done for this payload, which is then incomplete. CPU time counts, but
 * reading its clock is a system call. It is read when a quarter of the budget has passed on the wall clock,
 * which few payloads need, and then only when the rest may be spent.
 */
static bool is_spent(struct matcher *matcher)
{
	struct budget *budget = &matcher->budget;
	int64_t wall_ns;

	if (budget->is_cut || budget->unchecked < CHECKED_BYTES)
		return budget->is_cut;
	budget->uncharged += budget->unchecked;
	budget->unchecked = 0;
	wall_ns = clock_ns(CLOCK_MONOTONIC);
	if (!budget->start_ns) {
		budget->start_ns = wall_ns;
		budget->wall_end_ns = wall_ns + budget->limit_ns / 4;
	}
	if (wall_ns <= budget->wall_end_ns)
		return false;
	charge(matcher, wall_ns);
	if (budget->cost_ns >= budget->limit_ns && !budget->has_extra && has_credit(matcher, wall_ns)) {
		budget->has_extra = true;
		budget->limit_ns += matcher->extra_ns;
	}
	budget->is_cut = budget->cost_ns >= budget->limit_ns;
	budget->wall_end_ns = wall_ns + budget->limit_ns - budget->cost_ns;
	return budget->is_cut;
}

/* A scan that is broken off reports nothing about the end of the text, which it has not seen. */
static int scan_slices(struct matcher *matcher, void *stream, const uint8_t *data, uint32_t size,
		       on_match handler, void *context)
{
	uint32_t at = 0;

	while (at < size) {
		uint32_t length = size - at < matcher->slice ? size - at : matcher->slice;
		int error;

		if (is_spent(matcher))
			return matcher->reset_stream(stream, 0, NULL, NULL, NULL);
		error = matcher->scan_stream(stream, (const char *)data + at, length, 0, matcher->scratch,
					     handler, context);
		if (error) {
			matcher->reset_stream(stream, 0, NULL, NULL, NULL);
			return error;
		}
		at += length;
		matcher->budget.unchecked += length;
	}
	/* Reports the matches at the end of the text. */
	return matcher->reset_stream(stream, 0, matcher->scratch, handler, context);
}

/* Scans the text unless the budget is spent. Returns 0, or Hyperscan's error. */
static int scan_text(struct matcher *matcher, const struct database *database, const uint8_t *data,
		     uint32_t size, on_match handler, void *context)
{
	if (!database->whole || !size || is_spent(matcher))	/* no rule matches the empty string */
		return 0;
	if (size > matcher->slice)
		return scan_slices(matcher, database->stream, data, size, handler, context);
	matcher->budget.unchecked += size;
	return matcher->scan(database->whole, (const char *)data, size, 0, matcher->scratch, handler,
			     context);
}

/* Runs the deciders that NEEDED calls for on the parts of the text. */
static int decide(struct matcher *matcher, const struct stage *stage, uint32_t needed,
		  const struct text *text)
{
	uint32_t body = text->head_size + BLANK_LINE_SIZE;
	uint32_t number;

	for (number = 0; number < stage->count && number < MOST_STEPS; number++) {
		const struct step *step = &stage->steps[number];
		const uint8_t *data = text->data;
		uint32_t size = text->size;
		int error;

		if (!(needed & step->bit))
			continue;
		if (step->part == HEAD) {
			size = text->head_size;
		} else if (step->part == BODY) {
			if (body >= size)
				continue;
			data += body;
			size -= body;
		}
		error = scan_text(matcher, &step->database, data, size, note_rule, matcher);
		if (error)
			return error;
	}
	return 0;
}

static uint32_t head_size(const uint8_t *data, uint32_t size)
{
	const uint8_t *blank = memmem(data, size, BLANK_LINE, BLANK_LINE_SIZE);

	return blank ? (uint32_t)(blank - data) : size;
}

static unsigned hex_digit(uint8_t byte)
{
	if (byte >= '0' && byte <= '9')
		return byte - '0';
	byte |= 0x20;
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10u : 16u;
}

/*
 * Percent-decodes once from DATA to DECODED, which may be the same; invalid escapes stay, "+" becomes
 * a space. Returns the decoded size, which is at most SIZE. Sets *CHANGED if anything was decoded.
 */
static uint32_t url_decode(const uint8_t *data, uint32_t size, uint8_t *decoded, bool *changed)
{
	uint32_t length = 0;
	uint32_t at;

	for (at = 0; at < size; at++) {
		uint8_t byte = data[at];

		if (byte == '+') {
			byte = ' ';
			*changed = true;
		} else if (byte == '%' && size - at > 2) {
			unsigned high = hex_digit(data[at + 1]);
			unsigned low = hex_digit(data[at + 2]);

			if (high < 16 && low < 16) {
				byte = (uint8_t)(high << 4 | low);
				at += 2;
				*changed = true;
			}
		}
		decoded[length++] = byte;
	}
	return length;
}

/*
 * Percent-decodes the parts of the text once into BUFFER. Decoding the whole text gives the same bytes,
 * because no escape reaches across a blank line. Returns false if nothing was decoded.
 */
static bool decode(struct text *text, uint8_t *buffer)
{
	uint32_t body = text->head_size + BLANK_LINE_SIZE;
	bool has_body = text->head_size < text->size;
	bool changed = false;
	struct text decoded = {buffer, 0, 0};

	decoded.head_size = url_decode(text->data, text->head_size, buffer, &changed);
	decoded.size = decoded.head_size;
	if (has_body) {
		memcpy(buffer + decoded.size, BLANK_LINE, BLANK_LINE_SIZE);
		decoded.size += BLANK_LINE_SIZE;
		decoded.size += url_decode(text->data + body, text->size - body, buffer + decoded.size,
					   &changed);
	}
	*text = decoded;
	return changed;
}

/* Searches the parts of an HTTP payload as they are, decoded once, and decoded twice. */
static int search_http(struct matcher *matcher, const struct transport *transport, const uint8_t *data,
		       uint32_t size)
{
	struct text text = {data, size, 0};
	uint32_t needed = 0;
	int error, decodings;

	error = scan_text(matcher, &transport->raw.screen, data, size, note_bits, &needed);
	if (error || !needed)
		return error;
	text.head_size = head_size(data, size);
	error = decide(matcher, &transport->raw, needed, &text);
	if (error || !(needed & ENCODED))
		return error;
	if (size > matcher->decoded_size)
		return -1;
	for (decodings = 0; decodings < MOST_DECODINGS; decodings++) {
		matcher->budget.unchecked += text.size;
		if (is_spent(matcher) || !decode(&text, matcher->decoded))
			return 0;
		needed = 0;
		error = scan_text(matcher, &transport->decoded.screen, text.data, text.size, note_bits, &needed);
		if (!error)
			error = decide(matcher, &transport->decoded, needed, &text);
		if (error)
			return error;
	}
	return 0;
}

/*
 * Stores the rules that were found and whose port is one of the packet's, in order, and forgets what
 * was found. There is room for all rules. Returns the number stored.
 */
static int64_t store_found(struct matcher *matcher, uint16_t sport, uint16_t dport, uint32_t *rules)
{
	uint32_t words = (matcher->rules + 63) / 64;
	int64_t count = 0;
	uint32_t word;

	if (!matcher->has_found)
		return 0;
	matcher->has_found = 0;
	for (word = 0; word < words; word++) {
		uint64_t bits = matcher->found[word];

		matcher->found[word] = 0;
		for (; bits; bits &= bits - 1) {
			uint32_t rule = word * 64 + (uint32_t)__builtin_ctzll(bits);
			uint16_t port = matcher->ports[rule];

			if (!port || port == sport || port == dport)
				rules[count++] = rule;
		}
	}
	return count;
}

/* The clock is as coarse as a tick of the scheduler, and costs no more than a few loads. */
static bool is_over(int64_t stop_ns)
{
	struct timespec now;

	if (!stop_ns || clock_gettime(CLOCK_MONOTONIC_COARSE, &now))
		return false;
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec >= stop_ns;
}

/*
 * Matches the payloads from *NEXT on, at least one, until STOP_NS, and as long as there is room for the
 * matches of one more: CAPACITY, which is at least the number of rules. *NEXT is then the first payload
 * that was not matched. Stores each match as a payload's position and a rule, sorted by both. Returns
 * the number of matches, or -1 if a payload is not within the data, or if Hyperscan failed.
 */
int64_t match_payloads(struct matcher *matcher, const struct payloads *payloads, int64_t *next,
		       int64_t *positions, uint32_t *rules, int64_t capacity)
{
	int64_t now_ns = payloads->cost_ns ? clock_ns(CLOCK_MONOTONIC) : 0;
	int64_t count = 0;

	matcher->seen_wall_ns = clock_ns(CLOCK_MONOTONIC);
	matcher->seen_cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	matcher->has_stopped = 0;
	while (*next < payloads->count && !matcher->has_stopped && capacity - count >= matcher->rules) {
		int64_t number = *next;
		int64_t start = payloads->start[number];
		int64_t end = payloads->end[number];
		const struct transport *transport;
		uint32_t size;
		int64_t stored;
		int error;

		if (start < 0 || end < start || end > payloads->size || end - start > INT32_MAX ||
		    payloads->transport[number] > 2)
			return -1;
		transport = &matcher->transports[payloads->transport[number]];
		size = (uint32_t)(end - start);
		__atomic_store_n(matcher->place, (uint64_t)start, __ATOMIC_RELAXED);
		start_budget(matcher, size, payloads->is_http[number]);
		if (payloads->is_http[number])
			error = search_http(matcher, transport, payloads->data + start, size);
		else
			error = scan_text(matcher, &transport->plain, payloads->data + start, size, note_rule,
					  matcher);
		payloads->incomplete[number] = (uint8_t)matcher->budget.is_cut;
		stored = store_found(matcher, payloads->sport[number], payloads->dport[number], rules + count);
		if (error)
			return -1;
		for (; stored; stored--)
			positions[count++] = number;
		if (payloads->cost_ns) {
			int64_t took_ns = clock_ns(CLOCK_MONOTONIC) - now_ns;
			int64_t most_ns = 2 * matcher->budget.limit_ns; /* it may be cut a little late */

			now_ns += took_ns;
			/* Whatever is more is not its own: the thread had to wait for the CPU. */
			payloads->cost_ns[number] = took_ns < most_ns ? took_ns : most_ns;
		}
		++*next;
		matcher->has_stopped = is_over(matcher->stop_ns);
	}
	return count;
}
