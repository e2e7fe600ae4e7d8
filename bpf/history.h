/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The history: each CPU copies recent frames into memory of its own, up to a number of bytes per flow,
 * and overwrites the oldest ones. User space maps this memory read-only, and reads in it when a rule
 * matches. The kernel never waits for a reader.
 *
 * Chunks of records (abi.h) and heads of buckets are elements of arrays, one array per CPU in an array
 * of arrays:
 *   HISTORY_CHUNKS_FD	arrays of struct history_chunk, HISTORY_CHUNKS each
 *   HISTORY_HEADS_FD	arrays with a single struct history_heads
 *   HISTORY_FLOW_BYTES	the cut-off: bytes of a flow after which its frames are not copied
 *
 * The records of a bucket are a list from the newest to the oldest, so that a reader touches few other
 * frames than those of the flow it looks for. A reader finds out that a record was overwritten by the
 * number of its chunk, which it compares after it has copied the record. This relies on the memory
 * order of x86-64, like flow.h.
 */
#ifndef SENSOR_HISTORY_H
#define SENSOR_HISTORY_H

#include "abi.h"
#include "flow.h"

#if HISTORY_CHUNKS
/* BCC 0.26 does not know this helper (Linux 5.18). */
static long (*xdp_load_bytes)(struct xdp_md *ctx, __u32 offset, void *to, __u32 len) = (void *)189;

/*
 * The verifier needs a bound for the length of a copy, and as much room behind the place of every
 * record. Frames of usual size have a bound of their own, so that little room is wasted.
 */
#define HISTORY_SMALL_FRAME 2048
#define HISTORY_LARGE_FRAME (SNAPLEN > HISTORY_SMALL_FRAME ? SNAPLEN : HISTORY_SMALL_FRAME)
#define HISTORY_ALIGNMENT 8
#define HISTORY_FIRST_RECORD __builtin_offsetof(struct history_chunk, records)

/* A record on its way into the history. */
struct history_entry {
	__u64 ktime_ns;
	__u32 hash;
	__u32 caplen;
	__u32 wirelen;
	__u32 ifindex;
};

/* Returns the last offset in a chunk at which a record with a frame of LONGEST bytes may begin. */
static __always_inline __u64 last_place(__u64 longest)
{
	return HISTORY_CHUNK_BYTES - sizeof(struct history_record) - longest;
}

/* Writes a record into CHUNK at OFFSET. Returns false if the frame could not be copied. */
static __always_inline bool
write_record(struct xdp_md *ctx, struct history_chunk *chunk, __u64 offset, __u64 previous,
	     const struct history_entry *entry, const __u64 longest)
{
	struct history_record *record;
	__u64 caplen = entry->caplen;

	/* Keeps the compiler from dropping or moving checks that the verifier needs right here. */
	asm volatile("" : "+r"(offset), "+r"(caplen));
	if (offset > last_place(longest) || !caplen || caplen > longest)
		return false;
	record = (void *)chunk + offset;
	record->previous = previous;
	record->ktime_ns = entry->ktime_ns;
	record->hash = entry->hash;
	record->caplen = caplen;
	record->wirelen = entry->wirelen;
	record->ifindex = entry->ifindex;
	return !xdp_load_bytes(ctx, 0, record + 1, caplen);
}

/* Copies a frame into the history of this CPU. Returns false if that is not possible. */
static __always_inline bool remember(struct xdp_md *ctx, const struct history_entry *entry)
{
	__u32 cpu = bpf_get_smp_processor_id(), zero = 0, slot;
	void *chunks = map_element(HISTORY_CHUNKS_FD, &cpu);
	void *own_heads = map_element(HISTORY_HEADS_FD, &cpu);
	bool is_small = entry->caplen <= HISTORY_SMALL_FRAME;
	struct history_heads *heads;
	struct history_chunk *chunk;
	__u64 position, offset, *head;
	bool is_written;

	if (!chunks || !own_heads)
		return false;
	heads = bpf_map_lookup_elem_((__u64)own_heads, &zero);
	if (!heads)
		return false;
	position = heads->position;
	offset = position & (HISTORY_CHUNK_BYTES - 1);
	if (!offset || offset > last_place(is_small ? HISTORY_SMALL_FRAME : HISTORY_LARGE_FRAME)) {
		position = (position / HISTORY_CHUNK_BYTES + 1) * HISTORY_CHUNK_BYTES + HISTORY_FIRST_RECORD;
		offset = HISTORY_FIRST_RECORD;
	}
	slot = position / HISTORY_CHUNK_BYTES % HISTORY_CHUNKS;
	chunk = bpf_map_lookup_elem_((__u64)chunks, &slot);
	if (!chunk)
		return false;
	if (offset == HISTORY_FIRST_RECORD) {
		WRITE_ONCE(chunk->number, position / HISTORY_CHUNK_BYTES);
		barrier();
		chunk->first_ktime_ns = entry->ktime_ns;
	}
	head = &heads->heads[entry->hash & (HISTORY_BUCKETS - 1)];
	if (is_small)
		is_written = write_record(ctx, chunk, offset, *head, entry, HISTORY_SMALL_FRAME);
	else
		is_written = write_record(ctx, chunk, offset, *head, entry, HISTORY_LARGE_FRAME);
	heads->position = position + ((sizeof(struct history_record) + entry->caplen + HISTORY_ALIGNMENT - 1) &
				      ~(__u64)(HISTORY_ALIGNMENT - 1));
	barrier();
	if (is_written)
		WRITE_ONCE(*head, position);
	return is_written;
}

/*
 * Decides about a frame of a flow, or of one that is not in the table (NULL), and counts its bytes.
 */
static __always_inline enum history_fate choose_for_history(struct flow *flow, __u32 wirelen)
{
	__u32 bytes;

	if (!flow)
		return HISTORY_KEPT;
	bytes = READ_ONCE(flow->history_bytes);
	if ((bytes & ~HISTORY_WAS_CUT) >= HISTORY_FLOW_BYTES)
		return HISTORY_BEYOND;
	WRITE_ONCE(flow->history_bytes, bytes + wirelen);
	return HISTORY_KEPT;
}
#endif

#endif
