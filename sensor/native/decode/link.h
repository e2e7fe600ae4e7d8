/* SPDX-License-Identifier: Apache-2.0 */
/* Link-layer headers of all link types, and VLAN tags. */
#ifndef SENSOR_DECODE_LINK_H
#define SENSOR_DECODE_LINK_H

#include "ethertype.h"
#include "frame.h"
#include "ip.h"
#include "tunnel.h"

#define ETHERNET_SIZE 14
#define TAG_SIZE 4
#define TAGS_MAX 2
#define FAMILY_SIZE 4
#define LINUX_SLL_SIZE 16
#define LINUX_SLL2_SIZE 20

/* Mirrors LinkType in sensor/model.py (https://www.tcpdump.org/linktypes.html). */
enum link_type {
	LINK_NULL = 0,
	LINK_ETHERNET = 1,
	LINK_RAW_BSD = 12,
	LINK_RAW_OPENBSD = 14,
	LINK_RAW = 101,
	LINK_LOOP = 108,
	LINK_LINUX_SLL = 113,
	LINK_IPV4 = 228,
	LINK_IPV6 = 229,
	LINK_LINUX_SLL2 = 276,
};

/* Address families of BSD loopback headers. */
enum family {
	FAMILY_INET = 2,
	FAMILY_INET6_LINUX = 10,
	FAMILY_INET6_NETBSD = 24,	/* and OpenBSD */
	FAMILY_INET6_FREEBSD = 28,
	FAMILY_INET6_MACOS = 30,
};

/* Up to two VLAN tags (IEEE 802.1Q), then what the ethertype names; a third tag is UNKNOWN. */
static inline void decode_network(struct frame *frame, unsigned ethertype)
{
	for (uint8_t depth = 0; depth < TAGS_MAX && is_tag(ethertype); depth++) {
		if (!has(frame, TAG_SIZE))
			return;
		if (!frame->is_inner) {
			frame->packet.vlan_tci[depth] = (uint16_t)u16(frame, 0);
			frame->packet.vlan_count = (uint8_t)(depth + 1);
		}
		ethertype = u16(frame, 2);
		frame->position += TAG_SIZE;
	}
	if (ethertype == TYPE_IPV4)
		decode_ipv4(frame);
	else if (ethertype == TYPE_IPV6)
		decode_ipv6(frame);
	else if (is_mpls(ethertype))
		decode_mpls(frame);
	else if (ethertype == TYPE_PPPOE_SESSION)
		decode_pppoe(frame);
	else
		finish(frame, ethertype < TYPE_LENGTHS_END || is_not_ip(ethertype) ? NOT_IP : UNKNOWN);
}

/* A header of SIZE bytes with an ethertype at OFFSET: Ethernet, or Linux' cooked headers. */
static inline void decode_typed(struct frame *frame, int size, int offset)
{
	unsigned ethertype;

	if (!has(frame, size))
		return;
	ethertype = u16(frame, offset);
	frame->position += size;
	decode_network(frame, ethertype);
}

static inline void decode_family(struct frame *frame, unsigned family)
{
	frame->position += FAMILY_SIZE;
	switch (family) {
	case FAMILY_INET:
		decode_ipv4(frame);
		break;
	case FAMILY_INET6_LINUX:
	case FAMILY_INET6_NETBSD:
	case FAMILY_INET6_FREEBSD:
	case FAMILY_INET6_MACOS:
		decode_ipv6(frame);
		break;
	default:
		finish(frame, UNKNOWN);
	}
}

/* A family in the writer's byte order: the numbers are small, so the order is evident. */
static inline void decode_null(struct frame *frame)
{
	unsigned upper, lower;

	if (!has(frame, FAMILY_SIZE))
		return;
	upper = u16(frame, 0);
	lower = u16(frame, 2);
	decode_family(frame, !upper ? lower : !lower ? __builtin_bswap16((uint16_t)upper) : 0);
}

static inline void decode_loop(struct frame *frame)
{
	if (has(frame, FAMILY_SIZE))
		decode_family(frame, u16(frame, 0) ? 0 : u16(frame, 2));
}

/* IPv4 or IPv6 by the version; any other version is MALFORMED, as it is behind an ethertype. */
static inline void decode_raw(struct frame *frame)
{
	if (!has(frame, 1))
		return;
	if (u8(frame, 0) >> 4 == 4)
		decode_ipv4(frame);
	else
		decode_ipv6(frame);
}

static inline void decode_link(struct frame *frame, int link_type)
{
	switch (link_type) {
	case LINK_ETHERNET:
		decode_typed(frame, ETHERNET_SIZE, 12);
		break;
	case LINK_LINUX_SLL:
		decode_typed(frame, LINUX_SLL_SIZE, 14);
		break;
	case LINK_LINUX_SLL2:
		decode_typed(frame, LINUX_SLL2_SIZE, 0);
		break;
	case LINK_NULL:
		decode_null(frame);
		break;
	case LINK_LOOP:
		decode_loop(frame);
		break;
	case LINK_RAW:
	case LINK_RAW_BSD:
	case LINK_RAW_OPENBSD:
		decode_raw(frame);
		break;
	case LINK_IPV4:
		decode_ipv4(frame);
		break;
	case LINK_IPV6:
		decode_ipv6(frame);
		break;
	default:
		finish(frame, UNKNOWN);
	}
}

#endif
