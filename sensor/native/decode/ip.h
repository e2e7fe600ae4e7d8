/* SPDX-License-Identifier: Apache-2.0 */
/* IPv4, IPv6 and its extension headers. */
#ifndef SENSOR_DECODE_IP_H
#define SENSOR_DECODE_IP_H

#include <netinet/in.h>

#include "frame.h"
#include "transport.h"
#include "tunnel.h"

#define IPV4_SIZE_MIN 20
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1FFF
#define IPV6_SIZE 40
#define IPV6_MORE_FRAGMENTS 0x0001
#define IPV6_FRAGMENT_OFFSET 0xFFF8
#define EXTENSION_SIZE_MIN 8
#define EXTENSIONS_MAX 8

/* Protocols that netinet/in.h does not name. */
#define PROTOCOL_EIGRP 88
#define PROTOCOL_OSPF 89
#define PROTOCOL_VRRP 112
#define PROTOCOL_HIP 139
#define PROTOCOL_SHIM6 140

static inline void decode_protocol(struct frame *frame)
{
	bool is_ipv4 = frame->packet.ip_version == 4;

	switch (frame->packet.protocol) {
	case IPPROTO_TCP:
		decode_tcp(frame);
		break;
	case IPPROTO_UDP:
		decode_udp(frame);
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((frame->packet.protocol == IPPROTO_ICMP) == is_ipv4)
			decode_icmp(frame);
		else
			finish(frame, UNKNOWN);
		break;
	case IPPROTO_GRE:
		decode_gre(frame);
		break;
	case IPPROTO_IPIP:
		decode_ip_inside(frame, TYPE_IPV4);
		break;
	case IPPROTO_IPV6:
		decode_ip_inside(frame, TYPE_IPV6);
		break;
	case IPPROTO_NONE:
		finish(frame, is_ipv4 ? NO_TRANSPORT : NO_PAYLOAD);
		break;
	case IPPROTO_IGMP:
	case IPPROTO_ESP:
	case IPPROTO_PIM:
	case PROTOCOL_EIGRP:
	case PROTOCOL_OSPF:
	case PROTOCOL_VRRP:
		finish(frame, NO_TRANSPORT);
		break;
	default:
		finish(frame, UNKNOWN);
	}
}

/* IPv4 with its options (RFC 791). Length 0, set by segmentation offload, means the end of the frame. */
static inline void decode_ipv4(struct frame *frame)
{
	unsigned size, length, fragment;

	if (!has(frame, IPV4_SIZE_MIN) || u8(frame, 0) >> 4 != 4)
		return;
	frame->packet.ip_version = 4;
	frame->packet.tos = (uint8_t)u8(frame, 1);
	frame->packet.protocol = (uint8_t)u8(frame, 9);
	frame->packet.source_offset = frame->position + 12;

	size = (u8(frame, 0) & 0x0F) * 4;
	length = u16(frame, 2);
	fragment = u16(frame, 6);
	if (length) {
		if (frame->position + length > frame->wire_end)
			return;
		narrow(frame, frame->position + length);
	}
	if (size < IPV4_SIZE_MIN || !has(frame, size))
		return;
	frame->position += size;
	if (fragment & IPV4_FRAGMENT_OFFSET) {
		finish_at_payload(frame, FRAGMENT);
		return;
	}
	frame->is_first_fragment = fragment & IPV4_MORE_FRAGMENTS;
	decode_protocol(frame);
}

static inline bool is_extension(unsigned protocol)
{
	switch (protocol) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_AH:
	case IPPROTO_DSTOPTS:
	case IPPROTO_MH:
	case PROTOCOL_HIP:
	case PROTOCOL_SHIM6:
		return true;
	default:
		return false;
	}
}

/* AH counts words of 4 bytes (RFC 4302, section 2.2), the others words of 8. */
static inline int64_t extension_size(unsigned protocol, unsigned length)
{
	if (protocol == IPPROTO_FRAGMENT)
		return 8;
	return protocol == IPPROTO_AH ? ((int64_t)length + 2) * 4 : ((int64_t)length + 1) * 8;
}

/* Returns false if the packet ends with this extension header (RFC 8200, section 4). */
static inline bool decode_extension(struct frame *frame)
{
	unsigned protocol = frame->packet.protocol, fragment = 0;
	int64_t size;

	if (!has(frame, EXTENSION_SIZE_MIN))
		return false;
	size = extension_size(protocol, u8(frame, 1));
	if (!has(frame, size))
		return false;
	if (protocol == IPPROTO_FRAGMENT)
		fragment = u16(frame, 2);
	frame->is_first_fragment |= fragment & IPV6_MORE_FRAGMENTS;
	frame->packet.protocol = (uint8_t)u8(frame, 0);
	frame->position += size;
	if (fragment & IPV6_FRAGMENT_OFFSET) {
		finish_at_payload(frame, FRAGMENT);
		return false;
	}
	return true;
}

/* IPv6 and up to eight extension headers (RFC 8200); a ninth is UNKNOWN. For length 0 see decode_ipv4(). */
static inline void decode_ipv6(struct frame *frame)
{
	unsigned length;

	if (!has(frame, IPV6_SIZE) || u8(frame, 0) >> 4 != 6)
		return;
	frame->packet.ip_version = 6;
	frame->packet.tos = (uint8_t)(u16(frame, 0) >> 4);
	frame->packet.protocol = (uint8_t)u8(frame, 6);
	frame->packet.source_offset = frame->position + 8;

	length = u16(frame, 4);
	if (length) {
		if (frame->position + IPV6_SIZE + length > frame->wire_end)
			return;
		narrow(frame, frame->position + IPV6_SIZE + length);
	}
	frame->position += IPV6_SIZE;
	for (int count = 0; count < EXTENSIONS_MAX && is_extension(frame->packet.protocol); count++)
		if (!decode_extension(frame))
			return;
	decode_protocol(frame);
}

#endif
