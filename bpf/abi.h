/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the kernel program and Python share. Mirrored in sensor/abi.py and
 * sensor/model.py; tests/ compare them member for member.
 */
#ifndef SENSOR_ABI_H
#define SENSOR_ABI_H

/* What parsing a frame came to. */
enum packet_status {
	PACKET_PAYLOAD,		/* transport payload found */
	PACKET_NO_PAYLOAD,	/* whole headers, nothing behind them */
	PACKET_NOT_IP,		/* a link protocol known to carry no IP packet */
	PACKET_NO_TRANSPORT,	/* an IP protocol known to carry no payload rules speak of */
	PACKET_FRAGMENT,	/* a later fragment: payload without its transport header */
	PACKET_TUNNEL,		/* another packet inside: the kernel looks no further, user space does */
	PACKET_UNKNOWN,		/* a header not known here, or too many of them */
	PACKET_MALFORMED,	/* cut short, or a length that lies */
};

/* Every frame ends in exactly one bucket; SEEN counts them all. */
enum counter {
	COUNTER_SEEN,
	COUNTER_SUBMITTED,
	COUNTER_SUBMIT_FAILED,
	COUNTER_IGNORED_NO_PAYLOAD,
	COUNTER_IGNORED_NOT_IP,
	COUNTER_IGNORED_NO_TRANSPORT,
	COUNTER_IGNORED_NETWORK,	/* outside the networks that are watched */
	COUNTER_IGNORED_PROTOCOL,	/* no rule speaks of this protocol */
	COUNTER_IGNORED_PORT,		/* no rule speaks of either port */
	COUNTER_IGNORED_LENGTH,		/* longer than the profile has matched */
	COUNTER_IGNORED_FLOW,		/* behind what the profile has matched of a flow, or done with */
	COUNTER_IGNORED_PREFIX,		/* no rule's payload begins like this one */
	COUNTER_COUNT,
};

struct counter_value {
	__u64 frames;
	__u64 bytes;
};

/* Which place of the table a flow that begins was given. */
enum flow_place {
	FLOW_PLACE_UNUSED,	/* one that no flow ever had */
	FLOW_PLACE_OWN,		/* its own, of the time before it was idle or too old */
	FLOW_PLACE_OVER,	/* that of a flow which is over */
	FLOW_PLACE_EVICTED,	/* that of a flow which is not: it is forgotten early */
	FLOW_PLACE_NOWHERE,	/* none: another processor was writing */
	FLOW_PLACE_COUNT,
};

/* One for each interface and processor. */
struct counters {
	struct counter_value of[COUNTER_COUNT];
	__u64 flows[FLOW_PLACE_COUNT];	/* that began, by their place */
};

/* What a longest matching prefix says of an address; an address without one is no reason to ignore. */
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
 * Both directions of a flow have one key: the lower endpoint comes first, by the numbers that
 * its bytes make on this machine.
 */
struct flow_key {
	__be32 address_be[8];	/* four words each; of IPv4 one each, and zeroes behind them */
	__be16 port_be[2];
	__u16 vlan[2];		/* 12 bits of each tag, outer first */
	__u8 protocol;
	__u8 service;		/* of a flow of one direction */
	__u8 ip_version;
	__u8 reserved;
};

/* What user space decided about a flow. */
enum verdict {
	VERDICT_NONE,
	VERDICT_DONE,		/* nothing more in it can match */
	VERDICT_FOLLOW,		/* every frame of it is a candidate, for so many frames or so long */
};

/* A number that holds for one version of a flow only; read and written as one word. */
struct versioned {
	__u32 number;
	__u32 version;
};

/*
 * A way of a set: a flow, or what is left of one. Its words are written by the kernel or by user
 * space, none by both.
 */
struct flow {
	struct flow_key key;
	__u32 version;		/* even, and another one for every flow; odd while the key is written */
	struct versioned packets;	/* with payload */
	__u64 born_jiffies;
	struct versioned followed;	/* frames that passed because user space asked for them */
	struct versioned verdict;	/* enum verdict; by user space, like what is below */
	__u64 follow_until_ns;	/* CLOCK_MONOTONIC */
	__u32 follow_end;	/* frames followed beyond which it is not */
	__u32 reserved;
};

#define FLOW_WAYS 8

/* The flows that one hash leads to; what is looked at first fits into one cache line. */
struct flow_set {
	__u8 tags[FLOW_WAYS];	/* a byte of each flow's hash; 0: never used */
	__u64 writers;		/* processors that would write a key; one that is alone may */
	__u32 last_jiffies[FLOW_WAYS];
	__u64 last_written;	/* way; of ways used in the same tick the one before it is next */
	__u64 reserved;
	struct flow flows[FLOW_WAYS];
};

/* In front of every frame in the ring. */
struct frame_meta {
	__u64 ktime_ns;		/* CLOCK_MONOTONIC */
	__u64 flow_born_jiffies;	/* tells the flow from an earlier one of the same endpoints */
	__u32 flow_packets;	/* which packet with payload of its flow this is, from 1; 0: not counted */
	__u32 wirelen;
	__u32 caplen;
	__u32 ifindex;
};

#endif
