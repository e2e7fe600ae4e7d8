/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The key of a packet's flow, and the hash of a key. sensor/capture/flow_table.py computes the
 * same keys and hashes.
 *
 * FLOW_HAS_TOS   the type of service is part of the key: flows with one have a single direction
 * FLOW_SEEDS     random 64-bit numbers, drawn for each table, so that an attacker cannot cause collisions
 */
#ifndef SENSOR_FLOW_KEY_H
#define SENSOR_FLOW_KEY_H

#include "abi.h"
#include "parse.h"

#define VLAN_ID 0xfff
#define TOS_SERVICE 0xfe

/*
 * A key as the words in which it is written, hashed and compared. Keys are built in registers and
 * stored in words of that size, because a load that spans several stores has to wait for all of
 * them. For IPv4 only the first word of the addresses is set.
 */
union flow_key_words {
	struct flow_key key;
	struct {
		__u64 addresses[4];
		__u64 ports_and_vlan;
		__u32 rest;
	};
};

/* If the type of service is not 0, each direction is a flow of its own. */
static __always_inline __u8 service_of(__u8 tos)
{
	return FLOW_HAS_TOS ? tos & TOS_SERVICE : 0;
}

static __always_inline void
set_key_rest(const struct packet *packet, bool swap, __u8 service, union flow_key_words *key)
{
	__u64 first = swap ? packet->dport_be : packet->sport_be;
	__u64 second = swap ? packet->sport_be : packet->dport_be;

	key->ports_and_vlan = first | second << 16 | (__u64)(packet->vlan_tci[0] & VLAN_ID) << 32 |
			      (__u64)(packet->vlan_tci[1] & VLAN_ID) << 48;
	key->rest = packet->protocol | service << 8 | packet->ip_version << 16;
}

static __always_inline bool
set_flow_key4(const struct frame *frame, const struct packet *packet, union flow_key_words *key)
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
	key->addresses[0] = swap ? destination | source << 32 : source | destination << 32;
	set_key_rest(packet, swap, service, key);
	return true;
}

static __always_inline bool
set_flow_key6(const struct frame *frame, const struct packet *packet, union flow_key_words *key)
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
	key->addresses[0] = swap ? destination[0] : source[0];
	key->addresses[1] = swap ? destination[1] : source[1];
	key->addresses[2] = swap ? source[0] : destination[0];
	key->addresses[3] = swap ? source[1] : destination[1];
	set_key_rest(packet, swap, service, key);
	return true;
}

/* Returns false if the frame ends before the addresses. */
static __always_inline bool
set_flow_key(const struct frame *frame, const struct packet *packet, union flow_key_words *key)
{
	if (packet->ip_version == 4)
		return set_flow_key4(frame, packet, key);
	return set_flow_key6(frame, packet, key);
}

static __always_inline __u64 product(__u64 word, __u64 seed, __u64 other_seed)
{
	return (seed + (__u32)word) * (other_seed + (word >> 32));
}

/*
 * Returns a hash of 32 bits. The sum is multilinear-HM hashing, whose upper half is strongly
 * universal (Lemire and Kaser, "Strongly universal string hashing is fast", 2014). In a scan, ports
 * or addresses count up, and the upper half then counts up too, in steps that depend on the seeds.
 * Some seeds would put such flows into few sets. So the upper half is mixed, which is a bijection,
 * and hashed again by multiply-add-shift (Dietzfelbinger, "Universal hashing and k-wise independent
 * random variables via integer arithmetic without primes", 1996).
 */
static __always_inline __u64 hash_of(const union flow_key_words *key)
{
	const __u64 seeds[] = { FLOW_SEEDS };
	__u64 sum = product(key->rest, seeds[2], seeds[3]) +
		    product(key->ports_and_vlan, seeds[4], seeds[5]) +
		    product(key->addresses[0], seeds[6], seeds[7]);

	if (key->key.ip_version == 6)
		sum += product(key->addresses[1], seeds[8], seeds[9]) +
		       product(key->addresses[2], seeds[10], seeds[11]) +
		       product(key->addresses[3], seeds[12], seeds[13]);
	sum >>= 32;
	sum ^= sum >> 15;
	return (seeds[0] + seeds[1] * sum) >> 32;
}

#endif
