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
	COUNTER_IGNORED_PROTOCOL,	/* no rule speaks of this protocol */
	COUNTER_IGNORED_PORT,		/* no rule speaks of either port */
	COUNTER_COUNT,
};

struct counter_value {
	__u64 frames;
	__u64 bytes;
};

/* What the rules let the kernel ignore; a bit set means that no rule can apply. */
struct plan {
	__u64 ignored_protocols[256 / 64];
	__u64 ignored_tcp_ports[65536 / 64];
	__u64 ignored_udp_ports[65536 / 64];
};

#define PLAN_COUNT 2

/* In front of every frame in the ring. */
struct frame_meta {
	__u64 ktime_ns;		/* CLOCK_MONOTONIC */
	__u32 wirelen;
	__u32 caplen;
	__u32 ifindex;
	__u16 l3_offset;
	__u16 l4_offset;
	__u16 payload_offset;
	__u16 payload_len;
	__u16 vlan_tci[2];	/* outer tag first */
	__u8 vlan_count;
	__u8 protocol;
	__u8 status;		/* enum packet_status */
	__u8 reserved[5];	/* no uninitialised byte may leave the stack */
};

#endif
