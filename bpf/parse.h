/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The parser: from a frame to the offsets of its headers and payload. It handles Ethernet (or raw
 * IP), up to two VLAN tags, IPv4 with options, IPv6 with extension headers, fragments, TCP, UDP, ICMP
 * and ICMPv6. sensor/native/decode/ follows the same rules (docs/parsing.md), and tests compare
 * the two.
 *
 * A frame that carries another packet is PACKET_TUNNEL. Rules apply to the inner packet, which
 * only user space looks for, so the caller must let the frame pass whatever the outer
 * headers say.
 *
 * A header that this parser does not know is PACKET_UNKNOWN, never a guess. The caller must let
 * the frame pass.
 */
#ifndef SENSOR_PARSE_H
#define SENSOR_PARSE_H

#include "abi.h"
#include "packet.h"
#include "parse_link.h"
#include "parse_ip.h"
#include "parse_transport.h"

/* Offsets are valid only for the headers that were parsed. */
static __always_inline enum packet_status
parse_frame(const struct frame *frame, struct packet *packet)
{
	enum packet_status status;

	__builtin_memset(&packet->ethertype, 0, sizeof(*packet) - __builtin_offsetof(struct packet, ethertype));
#if RAW_IP
	status = parse_raw_ip(frame, packet);
#else
	status = parse_ethernet(frame, packet);
#endif
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
