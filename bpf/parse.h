/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a frame to the offsets of its headers and its payload: Ethernet, up to two
 * VLAN tags, IPv4 with options, IPv6 with extension headers, fragments, TCP, UDP,
 * ICMP and ICMPv6. sensor/decode/ follows the same law, and the tests hold the
 * two against each other.
 *
 * What carries another packet is PACKET_TUNNEL: rules speak of the packet inside,
 * which only sensor/decode/ looks for. The caller has to let it through, whatever
 * is said here of the packet outside.
 *
 * What this parser does not know is PACKET_UNKNOWN, never a guess: the caller
 * has to let it through.
 */
#ifndef SENSOR_PARSE_H
#define SENSOR_PARSE_H

#include "abi.h"

#define VLAN_TAGS_MAX 2
#define EXTENSION_HEADERS_MAX 8
/*
 * No header can start behind this: two tags, and eight extension headers of at
 * most 2,048 bytes. The verifier wants a bound on every offset into the packet.
 */
#define HEADER_OFFSET_MAX 0x7fff

#define be16(x) __builtin_bswap16(x)

enum ethertype {
	ETHERTYPE_802_3_MAX = 0x05ff,	/* a length, not a type (IEEE 802.3) */
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_ARP = 0x0806,
	ETHERTYPE_RARP = 0x8035,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_IPV6 = 0x86dd,
	ETHERTYPE_SLOW = 0x8809,	/* LACP, OAM */
	ETHERTYPE_MPLS = 0x8847,
	ETHERTYPE_MPLS_UPSTREAM = 0x8848,	/* or multicast (RFC 5332) */
	ETHERTYPE_PPPOE_SESSION = 0x8864,
	ETHERTYPE_EAPOL = 0x888e,
	ETHERTYPE_QINQ = 0x88a8,
	ETHERTYPE_LLDP = 0x88cc,
	ETHERTYPE_PTP = 0x88f7,
	ETHERTYPE_CFM = 0x8902,
	ETHERTYPE_QINQ_OLD = 0x9100,
};

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

enum tunnel_port {
	TUNNEL_PORT_VXLAN = 4789,
	TUNNEL_PORT_GENEVE = 6081,
};

struct ethernet_header {
	__u8 destination[6];
	__u8 source[6];
	__be16 type_be;
};

struct vlan_tag {
	__be16 tci_be;
	__be16 type_be;
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

struct tcp_header {
	__be16 sport_be;
	__be16 dport_be;
	__be32 sequence_be;
	__be32 acknowledgement_be;
	__u8 data_offset;	/* upper 4 bits, in 4-byte words */
	__u8 flags;
	__be16 window_be;
	__be16 checksum_be;
	__be16 urgent_be;
};

struct udp_header {
	__be16 sport_be;
	__be16 dport_be;
	__be16 length_be;
	__be16 checksum_be;
};

#define ICMP_HEADER_SIZE 8

struct frame {
	void *data;
	void *data_end;
	__u64 length;
	__u64 linear_length;	/* bytes of it before data_end; the others are in further buffers */
};

struct packet {
	__u64 l3_offset;
	__u64 l4_offset;
	__u64 payload_offset;
	__u64 payload_end;
	__u64 ip_end;		/* where the IP packet ends; padding may follow */
	/* From here on 0 where the frame does not say. */
	__u16 ethertype;
	__u16 sport_be;
	__u16 dport_be;
	__u16 vlan_tci[VLAN_TAGS_MAX];
	__u8 vlan_count;
	__u8 ip_version;
	__u8 protocol;
	bool first_fragment;
};

/* SIZE bytes at OFFSET, or NULL where the frame ends before. */
static __always_inline void *header_at(const struct frame *frame, __u64 offset, __u64 size)
{
	void *header;

	if (offset > HEADER_OFFSET_MAX)
		return NULL;
	/* Newer compilers (LLVM 19) would add before they compare, which the verifier refuses. */
	asm volatile("" : "+r"(offset));
	header = frame->data + offset;
	return header + size > frame->data_end ? NULL : header;
}

static __always_inline bool is_vlan(__u16 ethertype)
{
	return ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ ||
	       ethertype == ETHERTYPE_QINQ_OLD;
}

static __always_inline bool is_known_non_ip(__u16 ethertype)
{
	switch (ethertype) {
	case ETHERTYPE_ARP:
	case ETHERTYPE_RARP:
	case ETHERTYPE_SLOW:
	case ETHERTYPE_EAPOL:
	case ETHERTYPE_LLDP:
	case ETHERTYPE_PTP:
	case ETHERTYPE_CFM:
		return true;
	default:
		return ethertype <= ETHERTYPE_802_3_MAX;
	}
}

static __always_inline bool is_link_tunnel(__u16 ethertype)
{
	return ethertype == ETHERTYPE_MPLS || ethertype == ETHERTYPE_MPLS_UPSTREAM ||
	       ethertype == ETHERTYPE_PPPOE_SESSION;
}

/* Returns PACKET_PAYLOAD when an IP header has to follow at l3_offset. */
static __always_inline enum packet_status
parse_link(const struct frame *frame, struct packet *packet)
{
	struct ethernet_header *ethernet = header_at(frame, 0, sizeof(*ethernet));

	if (!ethernet)
		return PACKET_MALFORMED;
	packet->l3_offset = sizeof(*ethernet);
	packet->ethertype = be16(ethernet->type_be);

#pragma unroll
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		struct vlan_tag *tag;

		if (!is_vlan(packet->ethertype))
			break;
		tag = header_at(frame, packet->l3_offset, sizeof(*tag));
		if (!tag)
			return PACKET_MALFORMED;
		packet->vlan_tci[i] = be16(tag->tci_be);
		packet->vlan_count = i + 1;
		packet->ethertype = be16(tag->type_be);
		packet->l3_offset += sizeof(*tag);
	}

	if (packet->ethertype == ETHERTYPE_IPV4 || packet->ethertype == ETHERTYPE_IPV6)
		return PACKET_PAYLOAD;
	if (is_link_tunnel(packet->ethertype))
		return PACKET_TUNNEL;
	return is_known_non_ip(packet->ethertype) ? PACKET_NOT_IP : PACKET_UNKNOWN;
}

/* Sets ip_end; false when the length lies. 0 means up to the frame's end (segmentation offload, jumbograms). */
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

/* Returns PACKET_PAYLOAD when a transport header has to follow at l4_offset. */
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

/* RFC 8200, section 4.2; RFC 4302 for AH, which counts in words of four bytes. */
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

/* Returns PACKET_PAYLOAD when a transport header has to follow at l4_offset. */
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

/* A transport header of SIZE bytes inside the IP packet, or NULL. */
static __always_inline void *
transport_at(const struct frame *frame, const struct packet *packet, __u64 size)
{
	if (packet->l4_offset + size > packet->ip_end)
		return NULL;
	return header_at(frame, packet->l4_offset, size);
}

static __always_inline enum packet_status
parse_tcp(const struct frame *frame, struct packet *packet)
{
	struct tcp_header *tcp = transport_at(frame, packet, sizeof(*tcp));
	__u64 header_size;

	if (!tcp)
		return PACKET_MALFORMED;
	packet->sport_be = tcp->sport_be;
	packet->dport_be = tcp->dport_be;
	header_size = (tcp->data_offset >> 4) * 4;
	packet->payload_offset = packet->l4_offset + header_size;
	packet->payload_end = packet->ip_end;
	if (header_size < sizeof(*tcp) || packet->payload_offset > packet->ip_end)
		return PACKET_MALFORMED;
	return PACKET_PAYLOAD;
}

static __always_inline enum packet_status
parse_udp(const struct frame *frame, struct packet *packet)
{
	struct udp_header *udp = transport_at(frame, packet, sizeof(*udp));
	__u64 length;

	if (!udp)
		return PACKET_MALFORMED;
	packet->sport_be = udp->sport_be;
	packet->dport_be = udp->dport_be;
	packet->payload_offset = packet->l4_offset + sizeof(*udp);
	packet->payload_end = packet->ip_end;
	length = be16(udp->length_be);
	if (!length)
		return PACKET_PAYLOAD;
	if (length < sizeof(*udp))
		return PACKET_MALFORMED;
	if (packet->l4_offset + length > packet->ip_end)
		return packet->first_fragment ? PACKET_PAYLOAD : PACKET_MALFORMED;
	packet->payload_end = packet->l4_offset + length;
	return PACKET_PAYLOAD;
}

static __always_inline enum packet_status
parse_icmp(const struct frame *frame, struct packet *packet, __u8 ip_version)
{
	if (packet->ip_version != ip_version)
		return PACKET_UNKNOWN;
	if (!transport_at(frame, packet, ICMP_HEADER_SIZE))
		return PACKET_MALFORMED;
	packet->payload_offset = packet->l4_offset + ICMP_HEADER_SIZE;
	packet->payload_end = packet->ip_end;
	return PACKET_PAYLOAD;
}

/* A fragment is not entered: what is inside is not whole. The first one is matched like a later one. */
static __always_inline enum packet_status parse_ip_tunnel(const struct packet *packet)
{
	return packet->first_fragment ? PACKET_FRAGMENT : PACKET_TUNNEL;
}

static __always_inline enum packet_status
parse_transport(const struct frame *frame, struct packet *packet)
{
	switch (packet->protocol) {
	case PROTOCOL_TCP:
		return parse_tcp(frame, packet);
	case PROTOCOL_UDP:
		return parse_udp(frame, packet);
	case PROTOCOL_ICMP:
		return parse_icmp(frame, packet, 4);
	case PROTOCOL_ICMPV6:
		return parse_icmp(frame, packet, 6);
	case PROTOCOL_IPV4:
	case PROTOCOL_IPV6:
	case PROTOCOL_GRE:
		return parse_ip_tunnel(packet);
	case PROTOCOL_NONE:
		return packet->ip_version == 6 ? PACKET_NO_PAYLOAD : PACKET_NO_TRANSPORT;
	case PROTOCOL_IGMP:
	case PROTOCOL_ESP:
	case PROTOCOL_EIGRP:
	case PROTOCOL_OSPF:
	case PROTOCOL_PIM:
	case PROTOCOL_VRRP:
		return PACKET_NO_TRANSPORT;
	default:
		return PACKET_UNKNOWN;
	}
}

/* A datagram that user space may enter; whether the headers are what the port says is seen there. */
static __always_inline bool is_udp_tunnel(const struct packet *packet)
{
	return packet->protocol == PROTOCOL_UDP && !packet->first_fragment &&
	       (be16(packet->dport_be) == TUNNEL_PORT_VXLAN ||
		be16(packet->dport_be) == TUNNEL_PORT_GENEVE);
}

/* Offsets hold as far as parsing came. */
static __always_inline enum packet_status
parse_frame(const struct frame *frame, struct packet *packet)
{
	enum packet_status status;

	__builtin_memset(&packet->ethertype, 0, sizeof(*packet) - __builtin_offsetof(struct packet, ethertype));
	status = parse_link(frame, packet);
	if (status != PACKET_PAYLOAD)
		return status;
	if (packet->ethertype == ETHERTYPE_IPV4)
		status = parse_ipv4(frame, packet);
	else
		status = parse_ipv6(frame, packet);

	if (status == PACKET_PAYLOAD)
		status = parse_transport(frame, packet);
	if (status == PACKET_FRAGMENT) {
		packet->payload_offset = packet->l4_offset;
		packet->payload_end = packet->ip_end;
	}
	if ((status == PACKET_PAYLOAD || status == PACKET_FRAGMENT) &&
	    packet->payload_offset >= packet->payload_end)
		return PACKET_NO_PAYLOAD;
	if (status == PACKET_PAYLOAD && is_udp_tunnel(packet))
		return PACKET_TUNNEL;
	return status;
}

#endif
