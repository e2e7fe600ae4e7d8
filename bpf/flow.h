/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's table of flows. It numbers the packets with payload of each flow. A frame is
 * always judged by the entry of its own flow, even if hashes collide. sensor/rules/engine/flows.py
 * counts in the same way the packets that the kernel did not count.
 *
 * The table is an array of sets. The hash of a key selects a set. One byte of the hash (the tag)
 * selects the ways of the set whose keys are compared. If a set is full, a new flow replaces the
 * least recently used one. The kernel's own hash tables could do this too, but a single call of
 * theirs costs more than everything done here.
 *
 * CPUs share the table without waiting for each other:
 *   - A CPU writes a key only if it is the only writer of the set. Otherwise it does not write.
 *   - The version of a flow is odd while its key is being written. What was read of a flow is
 *     valid only if the version was even before, and is unchanged after (a sequence lock).
 *   - A CPU may be late and write to a way that belongs to another flow by then. The number it
 *     writes carries the version it saw, so it is void for the new flow, which counts from 0 again.
 * Counts can therefore get lost, so that more frames are submitted than necessary, never fewer.
 * This relies on the memory order of x86-64: stores become visible in program order, and loads
 * are done in program order.
 */
#ifndef SENSOR_FLOW_H
#define SENSOR_FLOW_H

#include "abi.h"
#include "flow_key.h"

#define EVERY_BYTE 0x0101010101010101ULL
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile __typeof__(x) *)&(x) = (value))

/* A consistent view of a flow at one moment. All words have 64 bits, the native size of BPF. */
struct found_flow {
	struct flow *flow;	/* NULL if not found */
	__u64 way;
	__u64 version;
	__u64 last_jiffies;	/* the lower 32 bits */
	__u64 born_jiffies;
};

static __always_inline void
write_number(struct versioned *at, __u64 version, __u32 number)
{
	WRITE_ONCE(*(__u64 *)at, version << 32 | number);
}

/* Returns 0 if the number was written for another version, that is, another flow. */
static __always_inline __u32 read_number(const struct versioned *at, __u64 version)
{
	__u64 word = READ_ONCE(*(const __u64 *)at);

	return word >> 32 == version ? word : 0;
}

/* Sets 0x80 in the lowest byte of WORD that is 0, and possibly in bytes above it (Mycroft's test). */
static __always_inline __u64 zero_bytes(__u64 word)
{
	return (word - EVERY_BYTE) & ~word & EVERY_BYTE << 7;
}

/* Returns the index of the lowest byte set in BITS, a result of zero_bytes(), by a multiplication. */
static __always_inline __u64 lowest_byte(__u64 bits)
{
	return ((bits & -bits) >> 7) * 0x0001020304050607ULL >> 56 & (FLOW_WAYS - 1);
}

static __always_inline __u64 tag_of(__u64 hash)
{
	__u64 tag = hash & 0xff;	/* the upper bits select the set */

	return tag ? tag : 1;
}

static __always_inline __u64 tags_of(const struct flow_set *set)
{
	return READ_ONCE(*(const __u64 *)set->tags);
}

static __always_inline bool
is_key_of(const struct flow *flow, const union flow_key_words *key)
{
	const union flow_key_words *own = (const void *)&flow->key;

	if (own->addresses[0] != key->addresses[0] || own->ports_and_vlan != key->ports_and_vlan ||
	    own->rest != key->rest)
		return false;
	return key->key.ip_version == 4 ||
	       (own->addresses[1] == key->addresses[1] && own->addresses[2] == key->addresses[2] &&
		own->addresses[3] == key->addresses[3]);
}

static __always_inline void write_key(struct flow *flow, const union flow_key_words *key)
{
	union flow_key_words *own = (void *)&flow->key;

	WRITE_ONCE(own->addresses[0], key->addresses[0]);
#pragma unroll
	for (int i = 1; i < 4; i++)
		WRITE_ONCE(own->addresses[i], key->key.ip_version == 4 ? 0 : key->addresses[i]);
	WRITE_ONCE(own->ports_and_vlan, key->ports_and_vlan);
	WRITE_ONCE(own->rest, key->rest);
}

/* Finds a flow. Fields without a version of their own are read between two reads of the flow's version. */
static __always_inline void
find_flow(struct flow_set *set, const union flow_key_words *key, __u64 tag, struct found_flow *found)
{
	__u64 candidates = zero_bytes(tags_of(set) ^ tag * EVERY_BYTE);

	found->flow = NULL;
	for (int i = 0; i < FLOW_WAYS && candidates; i++) {
		__u64 way = lowest_byte(candidates);
		struct flow *flow = &set->flows[way];
		__u64 version = READ_ONCE(flow->version);

		candidates &= candidates - 1;
		barrier();
		if (version & 1 || !is_key_of(flow, key))
			continue;
		found->way = way;
		found->version = version;
		found->last_jiffies = READ_ONCE(set->last_jiffies[way]);
		found->born_jiffies = READ_ONCE(flow->born_jiffies);
		barrier();
		if (READ_ONCE(flow->version) == version)
			found->flow = flow;
		break;
	}
}

/* 32 bits of the last time are enough: by the time they wrap around, LIFE_JIFFIES have passed. */
static __always_inline bool is_over(const struct found_flow *found, __u64 now_jiffies)
{
	return (__s32)((__u32)now_jiffies - found->last_jiffies) > IDLE_JIFFIES ||
	       (__s64)(now_jiffies - found->born_jiffies) > LIFE_JIFFIES;
}

/* Returns a way that was never used, else the least recently used one. Ways of the same tick take turns. */
static __always_inline __u64 way_to_replace(const struct flow_set *set, __u32 now_jiffies)
{
	__u64 never_used = zero_bytes(tags_of(set));
	__u64 last_written = set->last_written;
	__s64 oldest = (__s64)1 << 63;

	if (never_used)
		return lowest_byte(never_used);
#pragma unroll
	for (int i = 0; i < FLOW_WAYS; i++) {
		__s64 age = (__s32)(now_jiffies - set->last_jiffies[i]);
		__s64 age_and_turn = age * FLOW_WAYS + ((i - last_written) & (FLOW_WAYS - 1));

		oldest = age_and_turn > oldest ? age_and_turn : oldest;
	}
	return oldest + last_written;
}

/* Returns what the way to be replaced has held until now. */
static __always_inline enum flow_place
place_of(const struct flow_set *set, __u64 way, __u64 now_jiffies)
{
	struct found_flow last = {
		.last_jiffies = set->last_jiffies[way],
		.born_jiffies = set->flows[way].born_jiffies,
	};

	if (!set->tags[way])
		return FLOW_PLACE_UNUSED;
	return is_over(&last, now_jiffies) ? FLOW_PLACE_OVER : FLOW_PLACE_EVICTED;
}

/*
 * Enters a new flow: in the way of its predecessor with the same key, if one was found, else in
 * the way to replace. Does nothing while another CPU writes to the set; the flow's next packet is
 * then counted as its first.
 */
static __always_inline enum flow_place
begin_flow(struct flow_set *set, const union flow_key_words *key, __u64 tag,
	   const struct found_flow *found, __u64 now_jiffies)
{
	enum flow_place place = FLOW_PLACE_NOWHERE;

	__sync_fetch_and_add(&set->writers, 1);
	if (READ_ONCE(set->writers) == 1) {
		__u64 way = (found->flow ? found->way : way_to_replace(set, now_jiffies)) & (FLOW_WAYS - 1);
		struct flow *flow = &set->flows[way];
		__u32 version = flow->version + 2;

		place = found->flow ? FLOW_PLACE_OWN : place_of(set, way, now_jiffies);
		WRITE_ONCE(flow->version, version - 1);
		barrier();
		write_key(flow, key);
		write_number(&flow->packets, version, 1);
		WRITE_ONCE(flow->born_jiffies, now_jiffies);
		/* A flow that goes on after a silence still lacks what was beyond the cut-off. */
		WRITE_ONCE(flow->history_bytes,
			   found->flow && flow->history_bytes >= HISTORY_FLOW_BYTES ? HISTORY_WAS_CUT : 0);
		WRITE_ONCE(set->last_jiffies[way], now_jiffies);
		WRITE_ONCE(set->tags[way], tag);
		set->last_written = way;
		barrier();
		WRITE_ONCE(flow->version, version);
	}
	__sync_fetch_and_add(&set->writers, -1);
	return place;
}

/* Counts a packet of a flow that was found. Returns the packet's number. */
static __always_inline __u32
count_packet(struct flow_set *set, const struct found_flow *found, __u32 now_jiffies)
{
	__u32 number = read_number(&found->flow->packets, found->version) + 1;

	write_number(&found->flow->packets, found->version, number);
	WRITE_ONCE(set->last_jiffies[found->way & (FLOW_WAYS - 1)], now_jiffies);
	return number;
}

/* Returns user space's verdict for one frame. Counts the frame if the flow is followed. */
static __always_inline enum verdict verdict_on(const struct found_flow *found)
{
	struct flow *flow = found->flow;
	enum verdict verdict = read_number(&flow->verdict, found->version);
	__u32 followed;

	if (verdict != VERDICT_FOLLOW)
		return verdict;
	followed = read_number(&flow->followed, found->version);
	if ((__s32)(flow->follow_end - followed) <= 0 || bpf_ktime_get_ns() > flow->follow_until_ns)
		return VERDICT_NONE;
	write_number(&flow->followed, found->version, followed + 1);
	return VERDICT_FOLLOW;
}

#endif
