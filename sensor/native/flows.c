// SPDX-License-Identifier: Apache-2.0
/*
 * The table of flows: counts the packets of each flow, and remembers what matched in it.
 * sensor/native/flow_memory.py calls these functions and allocates the memory, which may be
 * shared with the worker that comes after this one. Nothing in that memory is trusted to be an
 * address or an index: whatever it holds, all accesses stay inside it.
 *
 * There are two generations of flows. When the young one has FLOWS entries, it becomes the old
 * one. A flow that is found in the old one is copied to the young one, which is searched first.
 * Flows lie in the order in which they came, and a table of SLOTS small entries finds them by
 * open addressing: a few flows touch few pages. Keys are seeded 64-bit hashes, so their low bits
 * are the slot.
 *
 * A worker may die at any instruction, and its successor sees the frames again that it has not
 * reported. The journal has what each frame changed, so that undo_flows() can take it back.
 */
#include <stdint.h>
#include <string.h>

#define SLOTS (1u << 20)
#define FLOWS (SLOTS / 2)
#define LABELS (1u << 20)
#define PROBES 4096
#define CHANGES (1u << 15)	/* a frame of a ring changes two entries, and a batch has 8192 */

/* A slot is 0, or a part of the key and the flow's index plus 1. */
#define INDEX_BITS 20
#define INDEX_MASK ((1u << INDEX_BITS) - 1)
#define NO_SLOT UINT32_MAX

struct flow {
	uint64_t key;
	int64_t idle_end_ns;
	int64_t expires_ns;
	int64_t born_jiffies;
	uint64_t serial;	/* names its labels */
	uint32_t packets;	/* 0: the flow is new */
	uint32_t reserved;
};

struct generation {
	uint32_t slots[SLOTS];
	struct flow flows[FLOWS];
};

struct labels {
	uint64_t serial;	/* of the flow that they belong to */
	uint8_t classes;	/* a bit per class that has a match in the flow */
	uint8_t answered;
	uint8_t source_size;	/* 0: no packet yet */
	uint8_t source[16];	/* sender of the packet whose answer is awaited */
};

enum place { GENERATION_0, GENERATION_1, LABEL };

/* An entry before a frame changed it. */
struct change {
	uint64_t position;	/* of the frame in its ring */
	uint64_t next_serial;
	uint32_t place;		/* enum place */
	uint32_t index;		/* of the flow in its generation, or of the labels */
	uint32_t slot;		/* where the flow is added; NO_SLOT if it was there */
	uint32_t slot_before;
	union {
		struct flow flow;
		struct labels labels;
	} before;
};

struct journal {
	uint32_t ring;
	uint32_t count;
	struct change changes[CHANGES];
};

struct flow_table {
	uint32_t young;		/* generation, 0 or 1 */
	uint32_t counts[2];	/* flows in each generation */
	uint32_t reserved;
	uint64_t next_serial;
	struct generation generations[2];
	struct labels labels[LABELS];
	struct journal journal;	/* of the batch that is under way */
};

uint64_t flow_table_bytes(void)
{
	return sizeof(struct flow_table);
}

#define NEVER INT64_MAX

/* Returns the time that is SPAN later; NEVER only if SPAN is NEVER. */
static int64_t later(int64_t time_ns, int64_t span_ns)
{
	int64_t sum;

	if (span_ns == NEVER)
		return NEVER;
	return __builtin_add_overflow(time_ns, span_ns, &sum) || sum == NEVER ? NEVER - 1 : sum;
}

/*
 * Keeps an entry, before the frame at POSITION changes it. SLOT is null, or where a flow is added.
 * Position 0 stands for a frame that comes from no ring: nobody will see it again.
 */
static void keep(struct flow_table *table, uint64_t position, enum place place, uint32_t index,
		 const uint32_t *slot)
{
	struct journal *journal = &table->journal;
	uint32_t count = journal->count;
	struct change *change = &journal->changes[count];

	if (!position || count >= CHANGES)
		return;
	change->position = position;
	change->next_serial = table->next_serial;
	change->place = place;
	change->index = index;
	change->slot = slot ? (uint32_t)(slot - table->generations[place].slots) : NO_SLOT;
	change->slot_before = slot ? *slot : 0;
	if (place == LABEL)
		change->before.labels = table->labels[index];
	else
		change->before.flow = table->generations[place].flows[index];
	/* A process that is killed has done what comes before an instruction, and nothing after it. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	journal->count = count + 1;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* The next batch is of this ring, and all earlier ones were reported. */
void begin_batch(struct flow_table *table, uint32_t ring)
{
	table->journal.count = 0;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	table->journal.ring = ring;
}

/* Takes back what the frames of RING at position FROM and later have changed, the last change first. */
void undo_flows(struct flow_table *table, uint32_t ring, uint64_t from)
{
	struct journal *journal = &table->journal;
	uint32_t count = journal->count < CHANGES ? journal->count : CHANGES;

	if (journal->ring != ring)
		return;
	while (count--) {
		const struct change *change = &journal->changes[count];
		struct generation *generation;

		if (change->position < from || change->place > LABEL)
			continue;
		if (change->next_serial < table->next_serial)
			table->next_serial = change->next_serial;
		if (change->place == LABEL) {
			table->labels[change->index % LABELS] = change->before.labels;
			continue;
		}
		generation = &table->generations[change->place];
		generation->flows[change->index % FLOWS] = change->before.flow;
		if (change->slot != NO_SLOT) {
			generation->slots[change->slot % SLOTS] = change->slot_before;
			table->counts[change->place] = change->index % FLOWS;
		}
	}
	journal->count = 0;
}

static uint32_t slot_value(uint64_t key, uint32_t index)
{
	return (uint32_t)(key >> (32 + INDEX_BITS)) << INDEX_BITS | (index + 1);
}

/* Returns the flow, or null; *FREE is then the slot for it. */
static struct flow *find_flow(struct generation *generation, uint64_t key, uint32_t **free)
{
	uint32_t part = slot_value(key, 0) & ~INDEX_MASK;

	for (uint32_t probe = 0; probe < PROBES; probe++) {
		uint32_t *slot = &generation->slots[(key + probe) % SLOTS];
		struct flow *flow = &generation->flows[((*slot & INDEX_MASK) - 1) % FLOWS];

		if (!*slot) {
			*free = slot;
			return NULL;
		}
		if ((*slot & ~INDEX_MASK) == part && flow->key == key)
			return flow;
	}
	*free = &generation->slots[key % SLOTS];	/* not with half of the slots in use: forget what is there */
	return NULL;
}

/* Returns the flow, which the frame at POSITION is about to change, in the young generation. */
static struct flow *admit(struct flow_table *table, uint64_t key, uint64_t position)
{
	uint32_t young = table->young & 1, index;
	struct flow *flow, *old = NULL;
	uint32_t *slot, *unused;

	flow = find_flow(&table->generations[young], key, &slot);
	if (flow) {
		index = (uint32_t)(flow - table->generations[young].flows);
		keep(table, position, (enum place)young, index, NULL);
		return flow;
	}
	if (table->counts[young] >= FLOWS) {
		young ^= 1;
		table->counts[young] = 0;
		memset(table->generations[young].slots, 0, sizeof(table->generations[young].slots));
		table->young = young;
		find_flow(&table->generations[young], key, &slot);
	}
	if (table->counts[young ^ 1])
		old = find_flow(&table->generations[young ^ 1], key, &unused);
	index = table->counts[young] % FLOWS;
	flow = &table->generations[young].flows[index];
	keep(table, position, (enum place)young, index, slot);
	*flow = old ? *old : (struct flow){.key = key};
	*slot = slot_value(key, index);
	table->counts[young] = index + 1;
	return flow;
}

static void start_flow(struct flow_table *table, struct flow *flow, int64_t idle_end_ns, int64_t expires_ns)
{
	*flow = (struct flow){.key = flow->key, .idle_end_ns = idle_end_ns, .expires_ns = expires_ns,
			      .serial = ++table->next_serial, .packets = 1};
}

/*
 * Returns whether a packet at NOW is of a later or an earlier flow than FLOW: idle time lies between
 * its newest packet and this one, or its life is over. Files may be read in any order, and a clock may
 * be set back, so the packet may also be that much older.
 */
static int is_other_flow(const struct flow *flow, int64_t idle_ns, int64_t now_ns)
{
	if (!flow->packets || now_ns > flow->expires_ns)
		return 1;
	if (flow->idle_end_ns == NEVER)
		return 0;
	return now_ns > flow->idle_end_ns || later(later(now_ns, idle_ns), idle_ns) < flow->idle_end_ns;
}

/*
 * Counts COUNT packets in their flows. Where NUMBERS is 0 the packet's number in its flow
 * replaces it; see is_other_flow() for when another flow begins, whose life ends after LIFE_NS.
 * Other packets were numbered by the kernel, which also says when the flow began. SERIALS, unless
 * null, gets the serial number of each packet's flow. POSITIONS, unless null, are those of the
 * frames in their ring.
 */
void count_flows(struct flow_table *table, int64_t idle_ns, int64_t life_ns, const uint64_t *keys,
		 int64_t *numbers, const int64_t *born_jiffies, const int64_t *now_ns,
		 const uint64_t *positions, uint64_t *serials, int64_t count)
{
	for (int64_t i = 0; i < count; i++) {
		struct flow *flow = admit(table, keys[i], positions ? positions[i] : 0);
		int64_t now = now_ns[i];

		if (numbers[i]) {
			if (!flow->packets || (flow->born_jiffies && flow->born_jiffies != born_jiffies[i]))
				start_flow(table, flow, NEVER, NEVER);
			flow->born_jiffies = born_jiffies[i];
		} else if (is_other_flow(flow, idle_ns, now)) {
			start_flow(table, flow, later(now, idle_ns), later(now, life_ns));
			numbers[i] = 1;
		} else {
			int64_t idle_end_ns = later(now, idle_ns);

			if (idle_end_ns > flow->idle_end_ns)
				flow->idle_end_ns = idle_end_ns;
			numbers[i] = flow->packets < UINT32_MAX ? ++flow->packets : flow->packets;
		}
		if (serials)
			serials[i] = flow->serial;
	}
}

/* Returns the labels of a flow, which the frame at POSITION is about to change. */
static struct labels *labels_of(struct flow_table *table, uint64_t serial, uint64_t position)
{
	struct labels *labels = &table->labels[serial % LABELS];

	keep(table, position, LABEL, serial % LABELS, NULL);
	if (labels->serial != serial)
		*labels = (struct labels){.serial = serial};
	return labels;
}

static int is_source(const struct labels *labels, const uint8_t *address, uint8_t size)
{
	return labels->source_size == size && !memcmp(labels->source, address, size);
}

static void set_source(struct labels *labels, const uint8_t *address, uint8_t size)
{
	labels->source_size = size;
	memcpy(labels->source, address, size);
}

/* Returns whether a packet is the first of its flow, or the first answer to that packet. */
static int opens(struct labels *labels, const uint8_t *source, uint8_t size)
{
	if (!labels->source_size) {
		set_source(labels, source, size);
		return 1;
	}
	if (labels->answered || !is_source(labels, source + size, size))
		return 0;
	labels->answered = 1;
	return 1;
}

/*
 * Decides which of COUNT packets, and which of their matches, are kept. Packet I has the matches
 * FIRST[I] to FIRST[I + 1] - 1; a match is the bit of its rule's class (CLASS) and the bits that
 * it labels the flow with besides (ALSO). The source address of packet I starts at ADDRESS[I]
 * in DATA, has SIZE[I] bytes (4 or 16), and is followed by the destination. POSITIONS are as above.
 *
 * BY_FLOW: a packet is kept if it opens its flow or answers the opening one. Otherwise it is kept
 * if a match that counts is of a class in WANTED. ONCE: a class counts once per flow.
 */
void select_packets(struct flow_table *table, const uint64_t *serials, const uint8_t *data,
		    const int64_t *address, const uint8_t *size, const int64_t *first,
		    const uint8_t *class, const uint8_t *also, const uint64_t *positions,
		    int64_t count, int by_flow, int once,
		    uint8_t all_classes, uint8_t threat, uint8_t wanted, uint8_t *keep_packet,
		    uint8_t *keep_match)
{
	for (int64_t i = 0; i < count; i++) {
		struct labels *labels = labels_of(table, serials[i], positions ? positions[i] : 0);
		const uint8_t *source = data + address[i];
		uint8_t width = size[i] == 16 ? 16 : 4;
		int is_wanted = 0, is_opening;

		keep_packet[i] = 0;
		if (!by_flow && first[i] == first[i + 1])
			continue;
		if (labels->classes == all_classes) {
			memset(keep_match + first[i], 0, first[i + 1] - first[i]);
			continue;
		}
		is_opening = by_flow && opens(labels, source, width);
		for (int64_t m = first[i]; m < first[i + 1]; m++) {
			keep_match[m] = 1;
			if (once) {
				keep_match[m] = !(labels->classes & class[m]);
				if (keep_match[m]) {
					labels->classes |= class[m] | also[m];
					set_source(labels, source, width);
					if (class[m] == threat)
						labels->answered = 0;
				}
			}
			is_wanted |= keep_match[m] && (class[m] & wanted);
		}
		keep_packet[i] = by_flow ? is_opening : is_wanted;
	}
}
