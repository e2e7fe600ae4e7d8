/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TCP, UDP, ICMP and ICMPv6, and the protocols that carry another packet.
 */
#ifndef SENSOR_PARSE_TRANSPORT_H
#define SENSOR_PARSE_TRANSPORT_H

#include "abi.h"
#include "packet.h"
#include "parse_ip.h"

enum tunnel_port {
	TUNNEL_PORT_VXLAN = 4789,
	TUNNEL_PORT_GENEVE = 6081,
};

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

/* Returns a transport header of SIZE bytes, or NULL if it is not wholly inside the IP packet. */
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

/* Fragments are not entered, because the inner packet is incomplete: a first one is matched like a later one. */
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

/* Returns true if user space may find a tunnel in the datagram. It checks the headers; we only check the port. */
static __always_inline bool is_udp_tunnel(const struct packet *packet)
{
	return packet->protocol == PROTOCOL_UDP && !packet->first_fragment &&
	       (be16(packet->dport_be) == TUNNEL_PORT_VXLAN ||
		be16(packet->dport_be) == TUNNEL_PORT_GENEVE);
}

#endif
