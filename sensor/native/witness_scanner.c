// SPDX-License-Identifier: Apache-2.0
/*
 * Tries a pair of Hyperscan databases on texts that a rule must match. sensor/native/witness_scanner.py builds the
 * structure and calls first_missed(). Databases and texts come from this program.
 */
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define HS_SCAN_TERMINATED (-3)

/* hs.h: hs_scan, hs_scan_stream, hs_reset_stream and match_event_handler. */
typedef int (*on_match)(unsigned id, unsigned long long from, unsigned long long to, unsigned flags,
			void *context);
typedef int (*scan_function)(const void *database, const char *data, unsigned size, unsigned flags,
			     void *scratch, on_match handler, void *context);
typedef int (*scan_stream_function)(void *stream, const char *data, unsigned size, unsigned flags,
				    void *scratch, on_match handler, void *context);
typedef int (*reset_stream_function)(void *stream, unsigned flags, void *scratch, on_match handler,
				     void *context);

struct witness_scanner {
	scan_function scan;
	scan_stream_function scan_stream;
	reset_stream_function reset_stream;
	const void *whole;	/* the expressions in block mode */
	void *stream;		/* the same in streaming mode */
	void *scratch;
	int64_t patience_ns;	/* CPU time after which no further text is tried */
	uint32_t mask;
	uint32_t wanted;	/* what an id that counts has under MASK */
	uint32_t slice;		/* longer texts are scanned in slices of this size */
	uint32_t is_found;
};

const int64_t witness_scanner_size = sizeof(struct witness_scanner);

static int note(unsigned id, unsigned long long from, unsigned long long to, unsigned flags, void *context)
{
	struct witness_scanner *scanner = context;

	(void)from;
	(void)to;
	(void)flags;
	scanner->is_found = (id & scanner->mask) == scanner->wanted;
	return scanner->is_found;		/* ends the scan */
}

static int scan_slices(struct witness_scanner *scanner, const char *data, int64_t size)
{
	int error = 0;

	while (size && !error) {
		uint32_t length = size < scanner->slice ? (uint32_t)size : scanner->slice;

		error = scanner->scan_stream(scanner->stream, data, length, 0, scanner->scratch, note, scanner);
		data += length;
		size -= length;
	}
	if (error) {
		scanner->reset_stream(scanner->stream, 0, NULL, NULL, NULL);
		return error;
	}
	return scanner->reset_stream(scanner->stream, 0, scanner->scratch, note, scanner);
}

static int64_t cpu_time_ns(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now))
		return 0;
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/*
 * Scans COUNT texts, each from START to END in DATA; when the patience is over, only the texts up to then,
 * at least one. Returns the number of the first text in which the rule is not found, COUNT if it is found in
 * all that were scanned, or -1 if Hyperscan failed.
 */
int64_t first_missed(struct witness_scanner *scanner, const char *data, const int64_t *start, const int64_t *end,
		     int64_t count)
{
	int64_t end_ns = cpu_time_ns() + scanner->patience_ns;
	int64_t number;

	for (number = 0; number < count; number++) {
		int64_t size = end[number] - start[number];
		int error;

		scanner->is_found = 0;
		if (size > scanner->slice)
			error = scan_slices(scanner, data + start[number], size);
		else
			error = scanner->scan(scanner->whole, data + start[number], (uint32_t)size, 0,
					    scanner->scratch, note, scanner);
		if (error && error != HS_SCAN_TERMINATED)
			return -1;
		if (!scanner->is_found)
			return number;
		if (cpu_time_ns() > end_ns)
			break;
	}
	return count;
}
