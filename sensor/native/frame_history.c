// SPDX-License-Identifier: Apache-2.0
/*
 * The history: recent frames of each flow in memory of fixed size, the oldest of which are overwritten.
 * bpf/history.h writes that of a CPU, whose layout bpf/abi.h describes; history_write() writes that of
 * capture files, in the same layout. sensor/native/frame_history.py calls these functions.
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "mix.h"

#define CHUNK_BYTES (1 << 18)
#define FIRST_RECORD 16		/* offset in a chunk, behind its number and the time of its first record */
#define BUCKETS (1 << 16)
#define ALIGNMENT 8
#define FIRST_HEAD 1		/* behind the position of the next record */

#define CUT_OFF_FLOWS (1 << 18)
#define TCP_SYN 0x02
#define TCP_ACK 0x10

struct record {
	uint64_t previous;	/* position of the record before it in the same bucket; 0: none */
	uint64_t time_ns;
	uint32_t hash;
	uint32_t caplen;
	uint32_t wirelen;
	uint32_t ifindex;
};

/* A record that was copied; its frame is at START of the copied bytes. */
struct found {
	uint64_t position;
	uint64_t time_ns;
	uint64_t start;
	uint32_t caplen;
	uint32_t wirelen;
	uint32_t ifindex;
	uint32_t reserved;
};

/* The reason why there are no earlier records; mirrored by HistoryEnd. */
enum history_end {
	END_WHOLE,		/* the bucket has none */
	END_SINCE,		/* they are older than asked for */
	END_OVERWRITTEN,	/* there may have been some */
	END_FULL,		/* there was no room, or too many records of other flows were in between */
};

static uint64_t load_acquire_word(const uint8_t *word)
{
	return __atomic_load_n((const uint64_t *)word, __ATOMIC_ACQUIRE);
}

/* Returns true if CHUNK still holds the records of chunk NUMBER, after everything that was read of it. */
static bool is_still(const uint8_t *chunk, uint64_t number)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return load_acquire_word(chunk) == number;
}

/*
 * Copies the records of flows with HASH that are not older than SINCE_NS, from the newest to the oldest:
 * their descriptions to FOUND, their frames to FRAMES. Looks at STEPS records at most. The memory may be
 * written meanwhile, and hold anything. Returns the number of records; USED is that of the bytes in FRAMES.
 */
int64_t history_collect(const uint8_t *chunks, uint64_t chunk_count, const uint8_t *heads, uint32_t hash,
			uint64_t since_ns, uint64_t steps, struct found *found, int64_t capacity,
			uint8_t *frames, uint64_t size, uint64_t *used, uint32_t *end)
{
	const uint8_t *head = heads + sizeof(uint64_t) * (FIRST_HEAD + (hash & (BUCKETS - 1)));
	uint64_t position = load_acquire_word(head), later = UINT64_MAX;
	int64_t count = 0;

	*used = 0;
	*end = END_OVERWRITTEN;
	while (position) {
		uint64_t number = position / CHUNK_BYTES, offset = position % CHUNK_BYTES;
		const uint8_t *chunk = chunks + number % chunk_count * CHUNK_BYTES;
		struct record record;

		if (!steps--) {
			*end = END_FULL;
			return count;
		}
		/* Positions fall, so that the walk ends whatever the memory holds. */
		if (position >= later || offset < FIRST_RECORD || offset % ALIGNMENT ||
		    offset > CHUNK_BYTES - sizeof(record) || load_acquire_word(chunk) != number)
			return count;
		memcpy(&record, chunk + offset, sizeof(record));
		if (!is_still(chunk, number) || record.caplen > CHUNK_BYTES - offset - sizeof(record))
			return count;
		if (record.time_ns < since_ns) {
			*end = END_SINCE;
			return count;
		}
		if (record.hash == hash) {
			if (count == capacity || record.caplen > size - *used) {
				*end = END_FULL;
				return count;
			}
			memcpy(frames + *used, chunk + offset + sizeof(record), record.caplen);
			if (!is_still(chunk, number))
				return count;
			found[count++] = (struct found){
				.position = position,
				.time_ns = record.time_ns,
				.start = *used,
				.caplen = record.caplen,
				.wirelen = record.wirelen,
				.ifindex = record.ifindex,
			};
			*used += record.caplen;
		}
		later = position;
		position = record.previous;
	}
	*end = END_WHOLE;
	return count;
}

/* The bytes of a flow that are in the history. Flows that share a place displace each other. */
struct flow_bytes {
	uint64_t flow;
	int64_t born_ns;
	int64_t last_ns;
	uint32_t bytes;
	uint32_t is_cut_off;	/* 1 if frames of the connection were left out */
};

/* The memory of the history of capture files. */
struct history {
	uint8_t *chunks;
	uint64_t chunk_count;
	uint64_t *heads;		/* struct history_heads */
	struct flow_bytes *flows;	/* CUT_OFF_FLOWS */
	uint64_t cut_off;		/* bytes of a flow after which its frames are left out */
	int64_t idle_ns;		/* bytes are counted from 0 again this long after the last frame, */
	int64_t life_ns;		/* and this long after the first */
};

/* Frames of a batch, one entry per frame in each array. */
struct frames {
	const uint8_t *data;
	const int64_t *start;
	const int64_t *caplen;
	const int64_t *wirelen;
	const int64_t *time_ns;
	const uint32_t *ifindex;
	const uint64_t *flow;
	const uint8_t *tcp_flags;	/* 0 if there is no TCP header */
};

uint64_t history_flows_bytes(void)
{
	return sizeof(struct flow_bytes) * CUT_OFF_FLOWS;
}

static struct flow_bytes *place_of(const struct history *history, uint64_t flow)
{
	return &history->flows[mix(flow) % CUT_OFF_FLOWS];
}

/* Returns true if frames of the flow's connection were left out. */
bool history_is_cut_off(const struct history *history, uint64_t flow)
{
	const struct flow_bytes *place = place_of(history, flow);

	return place->flow == flow && place->is_cut_off;
}

/* Counts a frame in its flow; returns false if the flow has reached the cut-off. */
static bool is_below_cut_off(const struct history *history, const struct frames *frames, int64_t i)
{
	struct flow_bytes *place = place_of(history, frames->flow[i]);
	int64_t now = frames->time_ns[i], wirelen = frames->wirelen[i];
	int64_t idle = (int64_t)((uint64_t)now - (uint64_t)place->last_ns);
	int64_t age = (int64_t)((uint64_t)now - (uint64_t)place->born_ns);
	uint8_t flags = frames->tcp_flags[i];
	bool is_idle = idle > history->idle_ns || idle < -history->idle_ns;

	if (place->flow != frames->flow[i] || (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN || (is_idle && !flags))
		*place = (struct flow_bytes){ .flow = frames->flow[i], .born_ns = now, .last_ns = now };
	else if (is_idle || age > history->life_ns)
		*place = (struct flow_bytes){
			.flow = place->flow, .born_ns = now, .last_ns = now, .is_cut_off = place->is_cut_off
		};
	if (idle > 0)
		place->last_ns = now;
	if (place->bytes >= history->cut_off) {
		place->is_cut_off = 1;
		return false;
	}
	place->bytes += wirelen < CHUNK_BYTES ? (uint32_t)wirelen : CHUNK_BYTES;
	return true;
}

static void write_frame(const struct history *history, const struct frames *frames, int64_t i)
{
	uint64_t position = history->heads[0], offset = position % CHUNK_BYTES, caplen = (uint64_t)frames->caplen[i];
	uint64_t *head = &history->heads[FIRST_HEAD + (frames->flow[i] & (BUCKETS - 1))];
	struct record record = {
		.previous = *head,
		.time_ns = (uint64_t)frames->time_ns[i],
		.hash = (uint32_t)frames->flow[i],
		.caplen = (uint32_t)caplen,
		.wirelen = (uint32_t)frames->wirelen[i],
		.ifindex = frames->ifindex[i],
	};
	uint8_t *chunk;

	if (!offset || offset + sizeof(record) + caplen > CHUNK_BYTES) {
		position = (position / CHUNK_BYTES + 1) * CHUNK_BYTES + FIRST_RECORD;
		offset = FIRST_RECORD;
	}
	chunk = history->chunks + position / CHUNK_BYTES % history->chunk_count * CHUNK_BYTES;
	if (offset == FIRST_RECORD) {
		uint64_t number = position / CHUNK_BYTES;

		memcpy(chunk, &number, sizeof(number));
		memcpy(chunk + sizeof(number), &record.time_ns, sizeof(record.time_ns));
	}
	memcpy(chunk + offset, &record, sizeof(record));
	memcpy(chunk + offset + sizeof(record), frames->data + frames->start[i], caplen);
	*head = position;
	history->heads[0] = position + ((sizeof(record) + caplen + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1));
}

/* Adds the frames from position FROM to before TO. The caller has checked that they lie in the data, and fit. */
void history_write(const struct history *history, const struct frames *frames, int64_t from, int64_t to)
{
	for (int64_t i = from; i < to; i++)
		if (is_below_cut_off(history, frames, i))
			write_frame(history, frames, i);
}
