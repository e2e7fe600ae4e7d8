/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The structures and enums that the kernel program shares with Python. sensor/abi.py and
 * sensor/model.py mirror them; tests compare the two, member by member.
 */
#ifndef SENSOR_ABI_H
#define SENSOR_ABI_H

/* The result of parsing a frame. */
enum packet_status {
	PACKET_PAYLOAD,		/* transport payload found */
	PACKET_NO_PAYLOAD,	/* complete headers, and nothing after them */
	PACKET_NOT_IP,		/* a link protocol that carries no IP packet */
	PACKET_NO_TRANSPORT,	/* an IP protocol without payload that rules could match */
	PACKET_FRAGMENT,	/* a later fragment: payload without a transport header */
	PACKET_TUNNEL,		/* carries another packet, which only user space parses */
	PACKET_UNKNOWN,		/* an unknown header, or too many headers */
	PACKET_MALFORMED,	/* cut short, or a length that cannot be right */
};

/* Every frame is counted in SEEN and in exactly one other bucket. */
enum counter {
	COUNTER_SEEN,
	COUNTER_SUBMITTED,
	COUNTER_SUBMIT_FAILED,
	COUNTER_IGNORED_NO_PAYLOAD,
	COUNTER_IGNORED_NOT_IP,
	COUNTER_IGNORED_NO_TRANSPORT,
	COUNTER_IGNORED_NETWORK,	/* excluded by its addresses */
	COUNTER_IGNORED_PROTOCOL,	/* no rule applies to this protocol */
	COUNTER_IGNORED_PORT,		/* no rule applies to either port */
	COUNTER_IGNORED_LENGTH,		/* longer than the profile's limit */
	COUNTER_IGNORED_FLOW,		/* beyond the profile's depth, or its flow is done */
	COUNTER_IGNORED_PREFIX,		/* no rule matches a payload with these first bytes */
	COUNTER_COUNT,
};

struct counter_value {
	__u64 frames;
	__u64 bytes;
};

/* The place in the table that a new flow got. */
enum flow_place {
	FLOW_PLACE_UNUSED,	/* a place that was never used */
	FLOW_PLACE_OWN,		/* its own: the flow was over and has started again */
	FLOW_PLACE_OVER,	/* the place of another flow that was over */
	FLOW_PLACE_EVICTED,	/* the place of another flow that was not over, and is forgotten early */
	FLOW_PLACE_NOWHERE,	/* none: another CPU was writing to the set */
	FLOW_PLACE_COUNT,
};

/* The cause of a frame in SUBMIT_FAILED. */
enum loss {
	LOSS_RING_FULL,
	LOSS_NO_RING,		/* this CPU has none: it came up a moment ago, or user space expected no frames there */
	LOSS_ERROR,
	LOSS_COUNT,
};

/* The fate of a frame that the history (history.h) asked for. */
enum history_fate {
	HISTORY_KEPT,
	HISTORY_BEYOND,		/* its flow has reached the cut-off */
	HISTORY_FAILED,		/* its CPU has no history, or the frame could not be copied */
	HISTORY_FATE_COUNT,
};

/* One per interface and CPU. */
struct counters {
	struct counter_value buckets[COUNTER_COUNT];
	__u64 flows[FLOW_PLACE_COUNT];	/* new flows, by their place */
	__u64 losses[LOSS_COUNT];	/* frames of SUBMIT_FAILED, by cause */
	__u64 history[HISTORY_FATE_COUNT];
	__u64 followed;		/* candidates because of VERDICT_FOLLOW; part of SUBMITTED and SUBMIT_FAILED */
};

/* The meaning of an address's longest matching prefix. An address without one is never a reason to ignore a frame. */
enum network {
	NETWORK_NONE,
	NETWORK_INCLUDED,
	NETWORK_EXCLUDED,	/* frames to or from it are ignored */
	NETWORK_OUTSIDE,	/* frames between two of these are ignored */
};

struct network4 {
	__u32 prefix_len;
	__be32 address_be;
};

struct network6 {
	__u32 prefix_len;
	__u8 address[16];
};

/*
 * The key of a flow, the same for both directions: the lower endpoint comes first. Endpoints are
 * compared as integers in the byte order of this machine.
 */
struct flow_key {
	__be32 address_be[8];	/* IPv6: four words each. IPv4: one each, then zeroes */
	__be16 port_be[2];
	__u16 vlan[2];		/* the 12-bit IDs of the tags, outer first */
	__u8 protocol;
	__u8 service;		/* type of service, if it tells flows apart; else 0 */
	__u8 ip_version;
	__u8 reserved;
};

/* User space's decision about a flow. */
enum verdict {
	VERDICT_NONE,
	VERDICT_DONE,		/* nothing else in it can match */
	VERDICT_FOLLOW,		/* its frames are candidates, up to a number of frames and a time */
};

/* A number that is valid for one version of a flow only. Read and written as one word. */
struct versioned {
	__u32 number;
	__u32 version;
};

/*
 * One way of a set: a flow, or the remains of one. Each word is written either by the kernel or by
 * user space, never by both.
 */
struct flow {
	struct flow_key key;
	__u32 version;		/* differs for each flow in this way; odd while the key is being written */
	struct versioned packets;	/* with payload */
	__u64 born_jiffies;
	struct versioned followed;	/* frames submitted because of VERDICT_FOLLOW */
	struct versioned verdict;	/* enum verdict; user space writes this and the fields below */
	__u64 follow_until_ns;	/* CLOCK_MONOTONIC */
	__u32 follow_end;	/* following ends when `followed` reaches this */
	__u32 history_bytes;	/* of its frames in the history; without a version, as it need not be exact */
};

#define FLOW_WAYS 8
/* In history_bytes: frames of the flow were beyond the cut-off before it was silent. */
#define HISTORY_WAS_CUT (1U << 31)

/* The flows that share a hash slot. What is read first fits into one cache line. */
struct flow_set {
	__u8 tags[FLOW_WAYS];	/* a byte of each flow's hash; 0: never used */
	__u64 writers;		/* CPUs that want to write a key; only a single one may */
	__u32 last_jiffies[FLOW_WAYS];
	__u64 last_written;	/* the way written last; breaks ties between ways last used in the same tick */
	__u64 reserved;
	struct flow flows[FLOW_WAYS];
};

/*
 * A state of a decision about a payload (plan.h): an outcome, which is an enum counter; or a place in a table.
 * STATE_PREFIX: the lower bits are the index of a prefix.
 * STATE_ROW: there is a state for each value of (word >> SHIFT) & MASK, the first one at START * STATE_ROW_UNIT. SHIFT
 * are the lowest 6 bits of the state, MASK are 8 bits at STATE_MASK_SHIFT, START are 16 bits at STATE_START_SHIFT.
 */
#define STATE_PREFIX (1U << 30)
#define STATE_ROW (1U << 31)
#define STATE_MASK_SHIFT 6
#define STATE_START_SHIFT 14
#define STATE_ROW_UNIT 16

/* No decision takes more steps than this. */
#define PLAN_STEPS 128

/* Payloads of at least `length` bytes, whose first word has `value` where `mask` has ones. */
struct plan_prefix {
	__u64 value;
	__u64 mask;
	__u32 length;
	__u32 otherwise;	/* the next state if the payload does not fit */
};

/* Precedes every frame in the ring. */
struct frame_meta {
	__u64 ktime_ns;		/* CLOCK_MONOTONIC */
	__u64 flow_born_jiffies;	/* tells the flow apart from an earlier one with the same key */
	__u32 flow_packets;	/* the packet's number in its flow, from 1; only packets with payload count; 0: not counted */
	__u32 wirelen;
	__u32 caplen;
	__u32 ifindex;		/* that the interface had when the program was loaded */
	__u32 is_followed;	/* 1 if the frame is a candidate because of VERDICT_FOLLOW */
	__u32 reserved;
};

/*
 * The history of a CPU: its recent frames, in records one after the other. A position is a number of
 * bytes since the start; chunk number N has the positions from N * HISTORY_CHUNK_BYTES on, and lies in
 * element N % (number of chunks) of an array. No record crosses the end of a chunk.
 */
#define HISTORY_CHUNK_BYTES (1 << 18)
#define HISTORY_BUCKETS (1 << 16)

struct history_chunk {
	__u64 number;		/* changes before anything in the chunk is overwritten; 0: never used */
	__u64 first_ktime_ns;	/* of its first record */
	__u8 records[HISTORY_CHUNK_BYTES - 16];
};

/* Precedes every frame in the history. Records are aligned to 8 bytes. */
struct history_record {
	__u64 previous;		/* position of the record before it in the same bucket; 0: none */
	__u64 ktime_ns;		/* CLOCK_MONOTONIC, the same as in struct frame_meta */
	__u32 hash;		/* of the flow's key (flow_key.h); 0 if the kernel knows no flow */
	__u32 caplen;
	__u32 wirelen;
	__u32 ifindex;		/* as in struct frame_meta */
};

struct history_heads {
	__u64 position;		/* where the next record begins; 0: there is none yet */
	__u64 heads[HISTORY_BUCKETS];	/* position of the newest record of each bucket; 0: none */
};

#endif
