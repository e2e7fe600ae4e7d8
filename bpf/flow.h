/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flows in the kernel: which packet with payload of its flow a frame carries. A frame is
 * judged by its own flow's entry, whatever hash collides. sensor/rules/flows.py counts by
 * the same law where the kernel did not.
 *
 * Two processors may count packets of one flow at once, and one of the two may get lost:
 * a frame more is let through, never one less.
 */
#ifndef SENSOR_FLOW_H
#define SENSOR_FLOW_H

#include "abi.h"
#include "parse.h"

#define VLAN_ID 0xfff
#define TOS_SERVICE 0xfe

/*
 * Keys are put together in registers and stored in words as large as those that they are
 * hashed and compared by: a load that spans several stores has to wait for all of them.
 */
struct flow_key {
	union {
		struct flow_key4 v4;
		__u64 v4_words[2];
	};
	union {
		struct flow_key6 v6;
		__u64 v6_words[5];
	};
};

/* A service of its own makes each direction a flow of its own. */
static __always_inline __u8 service_of(__u8 tos)
{
	return FLOW_HAS_TOS ? tos & TOS_SERVICE : 0;
}

static __always_inline __u64 ports_and_vlan(const struct packet *packet, bool swap)
{
	__u64 first = swap ? packet->dport_be : packet->sport_be;
	__u64 second = swap ? packet->sport_be : packet->dport_be;

	return first | second << 16 | (__u64)(packet->vlan_tci[0] & VLAN_ID) << 32 |
	       (__u64)(packet->vlan_tci[1] & VLAN_ID) << 48;
}

static __always_inline bool
set_flow_key4(const struct frame *frame, const struct packet *packet, struct flow_key *key)
{
	struct ipv4_header *ip = header_at(frame, packet->l3_offset, sizeof(*ip));
	__u64 source, destination;
	__u8 service;
	bool swap;

	if (!ip)
		return false;
	source = ip->source_be;
	destination = ip->destination_be;
	service = service_of(ip->tos);
	swap = !service && (source > destination ||
			    (source == destination && packet->sport_be > packet->dport_be));
	key->v4_words[0] = swap ? destination | source << 32 : source | destination << 32;
	key->v4_words[1] = ports_and_vlan(packet, swap);
	key->v4.protocol_and_tos = packet->protocol | service << 8;
	return true;
}

static __always_inline bool
set_flow_key6(const struct frame *frame, const struct packet *packet, struct flow_key *key)
{
	struct ipv6_header *ip = header_at(frame, packet->l3_offset, sizeof(*ip));
	__u64 source[2], destination[2];
	__u8 service;
	bool swap;

	if (!ip)
		return false;
	source[0] = ((__u64 *)ip->source)[0];
	source[1] = ((__u64 *)ip->source)[1];
	destination[0] = ((__u64 *)ip->destination)[0];
	destination[1] = ((__u64 *)ip->destination)[1];
	service = service_of(be16(*(__be16 *)ip) >> 4);
	if (source[0] != destination[0])
		swap = source[0] > destination[0];
	else if (source[1] != destination[1])
		swap = source[1] > destination[1];
	else
		swap = packet->sport_be > packet->dport_be;
	swap = swap && !service;
	key->v6_words[0] = swap ? destination[0] : source[0];
	key->v6_words[1] = swap ? destination[1] : source[1];
	key->v6_words[2] = swap ? source[0] : destination[0];
	key->v6_words[3] = swap ? source[1] : destination[1];
	key->v6_words[4] = ports_and_vlan(packet, swap);
	key->v6.protocol_and_tos = packet->protocol | service << 8;
	return true;
}

/* False where the frame ends before the addresses. */
static __always_inline bool
set_flow_key(const struct frame *frame, const struct packet *packet, struct flow_key *key)
{
	if (packet->ip_version == 4)
		return set_flow_key4(frame, packet, key);
	return set_flow_key6(frame, packet, key);
}

static __always_inline bool is_over(const struct flow *flow, __u64 now_jiffies)
{
	return (__s64)(now_jiffies - flow->last_jiffies) > IDLE_JIFFIES ||
	       (__s64)(now_jiffies - flow->born_jiffies) > LIFE_JIFFIES;
}

/* Counts a packet to FLOW, which begins anew where it was over; returns the packet's number. */
static __always_inline __u32 count_packet(struct flow *flow, __u64 now_jiffies)
{
	__u32 number = flow->packets + 1;

	if (is_over(flow, now_jiffies)) {
		flow->born_jiffies = now_jiffies;
		flow->verdict = VERDICT_NONE;
		number = 1;
	}
	flow->packets = number;
	flow->last_jiffies = now_jiffies;
	return number;
}

/* Whether user space wants every frame of the flow; takes one of those it asked for. */
static __always_inline bool is_followed(struct flow *flow)
{
	if (flow->verdict != VERDICT_FOLLOW || !flow->follow_frames ||
	    bpf_ktime_get_ns() > flow->follow_until_ns)
		return false;
	flow->follow_frames--;
	return true;
}

#endif
