/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IPv4 with options, IPv6 with extension headers, and fragments of both.
 */
#ifndef SENSOR_PARSE_IP_H
#define SENSOR_PARSE_IP_H

#include "abi.h"
#include "packet.h"

#define EXTENSION_HEADERS_MAX 8

enum protocol {
	PROTOCOL_HOPOPTS = 0,
	PROTOCOL_ICMP = 1,
	PROTOCOL_IGMP = 2,
	PROTOCOL_IPV4 = 4,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	PROTOCOL_IPV6 = 41,
	PROTOCOL_ROUTING = 43,
	PROTOCOL_FRAGMENT = 44,
	PROTOCOL_GRE = 47,
	PROTOCOL_ESP = 50,
	PROTOCOL_AH = 51,
	PROTOCOL_ICMPV6 = 58,
	PROTOCOL_NONE = 59,
	PROTOCOL_DSTOPTS = 60,
	PROTOCOL_EIGRP = 88,
	PROTOCOL_OSPF = 89,
	PROTOCOL_PIM = 103,
	PROTOCOL_VRRP = 112,
	PROTOCOL_MOBILITY = 135,
	PROTOCOL_HIP = 139,
	PROTOCOL_SHIM6 = 140,
};

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length_be;
	__be16 id_be;
	__be16 fragment_be;	/* 3 bits of flags, 13 bits of offset */
	__u8 ttl;
	__u8 protocol;
	__be16 checksum_be;
	__be32 source_be;
	__be32 destination_be;
};

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1fff

struct ipv6_header {
	__u8 version_class;
	__u8 class_flow[3];
	__be16 payload_length_be;
	__u8 next_header;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
};

struct extension_header {
	__u8 next_header;
	__u8 length;
	__be16 fragment_be;	/* fragment header only: 13 bits of offset, M in bit 0 */
	__be32 id_be;
};

#define IPV6_MORE_FRAGMENTS 0x0001
#define IPV6_FRAGMENT_OFFSET 0xfff8

/*
 * Sets ip_end. Returns false if the length does not fit the header or the frame. A length of 0
 * means up to the end of the frame (segmentation offload, jumbograms).
 */
static __always_inline bool
set_ip_end(const struct frame *frame, struct packet *packet, __u64 length, __u64 header_size)
{
	if (!length) {
		packet->ip_end = frame->length;
		return packet->l3_offset + header_size <= frame->length;
	}
	packet->ip_end = packet->l3_offset + length;
	return length >= header_size && packet->ip_end <= frame->length;
}

/* Returns PACKET_PAYLOAD if a transport header must follow at l4_offset. */
static __always_inline enum packet_status
parse_ipv4(const struct frame *frame, struct packet *packet)
{
	struct ipv4_header *ip = header_at(frame, packet->l3_offset, sizeof(*ip));
	__u64 header_size;
	__u16 fragment;

	if (!ip || ip->version_ihl >> 4 != 4)
		return PACKET_MALFORMED;
	packet->ip_version = 4;
	packet->protocol = ip->protocol;
	header_size = (ip->version_ihl & 0xf) * 4;
	if (header_size < sizeof(*ip) ||
	    !set_ip_end(frame, packet, be16(ip->total_length_be), header_size))
		return PACKET_MALFORMED;

	packet->l4_offset = packet->l3_offset + header_size;
	fragment = be16(ip->fragment_be);
	if (fragment & IPV4_FRAGMENT_OFFSET)
		return PACKET_FRAGMENT;
	packet->first_fragment = fragment & IPV4_MORE_FRAGMENTS;
	return PACKET_PAYLOAD;
}

static __always_inline bool is_extension(__u8 protocol)
{
	switch (protocol) {
	case PROTOCOL_HOPOPTS:
	case PROTOCOL_ROUTING:
	case PROTOCOL_FRAGMENT:
	case PROTOCOL_AH:
	case PROTOCOL_DSTOPTS:
	case PROTOCOL_MOBILITY:
	case PROTOCOL_HIP:
	case PROTOCOL_SHIM6:
		return true;
	default:
		return false;
	}
}

/* RFC 8200, section 4.2. AH counts in words of four bytes (RFC 4302). */
static __always_inline __u64 extension_size(__u8 protocol, __u8 length)
{
	if (protocol == PROTOCOL_FRAGMENT)
		return sizeof(struct extension_header);
	if (protocol == PROTOCOL_AH)
		return (length + 2) * 4;
	return (length + 1) * 8;
}

static __always_inline enum packet_status
parse_extensions(const struct frame *frame, struct packet *packet)
{
	for (int i = 0; i < EXTENSION_HEADERS_MAX; i++) {
		struct extension_header *extension;
		__u8 protocol = packet->protocol;

		if (!is_extension(protocol))
			return PACKET_PAYLOAD;
		extension = header_at(frame, packet->l4_offset, sizeof(*extension));
		if (!extension)
			return PACKET_MALFORMED;
		packet->l4_offset += extension_size(protocol, extension->length);
		if (packet->l4_offset > packet->ip_end)
			return PACKET_MALFORMED;
		packet->protocol = extension->next_header;
		if (protocol == PROTOCOL_FRAGMENT) {
			__u16 fragment = be16(extension->fragment_be);

			if (fragment & IPV6_FRAGMENT_OFFSET)
				return PACKET_FRAGMENT;
			if (fragment & IPV6_MORE_FRAGMENTS)
				packet->first_fragment = true;
		}
	}
	return is_extension(packet->protocol) ? PACKET_UNKNOWN : PACKET_PAYLOAD;
}

/* Returns PACKET_PAYLOAD if a transport header must follow at l4_offset. */
static __always_inline enum packet_status
parse_ipv6(const struct frame *frame, struct packet *packet)
{
	struct ipv6_header *ip = header_at(frame, packet->l3_offset, sizeof(*ip));
	__u64 payload_length;

	if (!ip || ip->version_class >> 4 != 6)
		return PACKET_MALFORMED;
	packet->ip_version = 6;
	packet->protocol = ip->next_header;
	payload_length = be16(ip->payload_length_be);
	if (!set_ip_end(frame, packet, payload_length ? sizeof(*ip) + payload_length : 0, sizeof(*ip)))
		return PACKET_MALFORMED;
	packet->l4_offset = packet->l3_offset + sizeof(*ip);
	return parse_extensions(frame, packet);
}

#endif
