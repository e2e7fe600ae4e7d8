/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Headers of tunnels. Each finds the start and the type of the inner packet and defers it. Types are
 * ethertypes, as in GRE and GENEVE.
 */
#ifndef SENSOR_DECODE_TUNNEL_H
#define SENSOR_DECODE_TUNNEL_H

#include "ethertype.h"
#include "frame.h"

#define GRE_SIZE_MIN 4
#define GRE_CHECKSUM 0x8000
#define GRE_KEY 0x2000
#define GRE_SEQUENCE 0x1000
/* Routing and other bits that a receiver must reject (RFC 2784, section 2.3), and any version but 0. */
#define GRE_UNKNOWN 0x4C07

#define VXLAN_PORT 4789
#define VXLAN_SIZE 8
#define VXLAN_FLAGS 0x7F
#define VXLAN_VNI 0x08
#define GENEVE_PORT 6081
#define GENEVE_SIZE_MIN 8

#define LABEL_SIZE 4
#define LABELS_MAX 8
#define CONTROL_WORD_SIZE 4
#define INNER_ETHERNET_SIZE 14

#define PPPOE_SIZE 6
#define PPPOE_SESSION_DATA 0x1100	/* version 1, type 1, code 0 */
#define PPP_SIZE 2
#define PPP_IPV4 0x0021
#define PPP_IPV6 0x0057
#define PPP_CONTROL 0x8000		/* and all above */

static inline bool is_inner_type(unsigned type)
{
	return type == TYPE_IPV4 || type == TYPE_IPV6 || type == TYPE_ETHERNET || is_mpls(type);
}

static inline bool is_in_ethernet(unsigned type)
{
	return type == TYPE_IPV4 || type == TYPE_IPV6 || type == TYPE_PPPOE_SESSION || is_tag(type) ||
	       is_mpls(type) || is_not_ip(type);
}

/* Finishes the first of several fragments as FRAGMENT, like later ones: a tunnel in it is not whole. */
static inline bool finish_fragment(struct frame *frame)
{
	if (frame->is_first_fragment)
		finish_at_payload(frame, FRAGMENT);
	return frame->is_first_fragment;
}

/* IP in IP, where the inner packet starts at once (RFC 2003, RFC 2473, RFC 4213). */
static inline void decode_ip_inside(struct frame *frame, uint16_t ethertype)
{
	if (!finish_fragment(frame))
		defer(frame, ethertype);
}

/* GRE (RFC 2784) with checksum, key and sequence number (RFC 2890). */
static inline void decode_gre(struct frame *frame)
{
	unsigned flags, ethertype;

	if (finish_fragment(frame) || !has(frame, GRE_SIZE_MIN))
		return;
	flags = u16(frame, 0);
	ethertype = u16(frame, 2);
	if (flags & GRE_UNKNOWN || !is_inner_type(ethertype)) {
		finish(frame, UNKNOWN);
		return;
	}
	frame->position += GRE_SIZE_MIN + 4 * (!!(flags & GRE_CHECKSUM) + !!(flags & GRE_KEY) +
					       !!(flags & GRE_SEQUENCE));
	if (has(frame, 0))
		defer(frame, (uint16_t)ethertype);
}

/* The I flag is required (RFC 7348, section 5); group policy's is allowed, as in Linux. */
static inline void decode_vxlan(struct frame *frame)
{
	if (!has(frame, VXLAN_SIZE) || (u8(frame, 0) & VXLAN_FLAGS) != VXLAN_VNI)
		return;
	frame->position += VXLAN_SIZE;
	defer_datagram(frame, TYPE_ETHERNET);
}

/* GENEVE of version 0 with whole options and a known inner packet (RFC 8926, section 3.4). */
static inline void decode_geneve(struct frame *frame)
{
	unsigned first, ethertype;

	if (!has(frame, GENEVE_SIZE_MIN))
		return;
	first = u8(frame, 0);
	ethertype = u16(frame, 2);
	if (first >> 6 || !is_inner_type(ethertype))
		return;
	frame->position += GENEVE_SIZE_MIN + (first & 0x3F) * 4;
	if (has(frame, 0))
		defer_datagram(frame, (uint16_t)ethertype);
}

/* A datagram without a tunnel's header, or without a packet behind it, stays payload. */
static inline void decode_in_udp(struct frame *frame)
{
	if (frame->is_first_fragment)
		return;
	if (frame->packet.dport == VXLAN_PORT)
		decode_vxlan(frame);
	else if (frame->packet.dport == GENEVE_PORT)
		decode_geneve(frame);
}

/*
 * An Ethernet frame with or without a control word in front (RFC 4448, section 4.6). A control word
 * starts with four zero bits, as many addresses do, so the ethertype decides where the frame starts.
 * A first half byte of 1 is a control channel (RFC 5586): UNKNOWN, as is a frame without a known type.
 */
static inline void decode_pseudowire(struct frame *frame)
{
	unsigned first;

	if (!has(frame, INNER_ETHERNET_SIZE))
		return;
	first = u8(frame, 0) >> 4;
	if (!first && has(frame, CONTROL_WORD_SIZE + INNER_ETHERNET_SIZE) &&
	    is_in_ethernet(u16(frame, CONTROL_WORD_SIZE + 12))) {
		frame->position += CONTROL_WORD_SIZE;
		defer(frame, TYPE_ETHERNET);
	} else if (first != 1 && is_in_ethernet(u16(frame, 12))) {
		defer(frame, TYPE_ETHERNET);
	} else {
		finish(frame, UNKNOWN);
	}
}

/*
 * Up to eight labels (RFC 3032); a ninth is UNKNOWN. Labels do not name the inner packet: it is IP if
 * its first four bits are 4 or 6 (RFC 4928).
 */
static inline void decode_mpls(struct frame *frame)
{
	int labels;

	for (labels = 1;; labels++) {
		bool is_bottom;

		if (!has(frame, LABEL_SIZE))
			return;
		is_bottom = u8(frame, 2) & 1;
		if (!is_bottom && labels == LABELS_MAX) {
			finish(frame, UNKNOWN);
			return;
		}
		frame->position += LABEL_SIZE;
		if (is_bottom)
			break;
	}
	if (!has(frame, 1))
		return;
	switch (u8(frame, 0) >> 4) {
	case 4:
		defer(frame, TYPE_IPV4);
		break;
	case 6:
		defer(frame, TYPE_IPV6);
		break;
	default:
		decode_pseudowire(frame);
	}
}

/* A PPPoE session header (RFC 2516, section 4) and the PPP protocol (RFC 1661, section 2). */
static inline void decode_pppoe(struct frame *frame)
{
	unsigned protocol;
	int64_t end;

	if (!has(frame, PPPOE_SIZE + PPP_SIZE))
		return;
	if (u16(frame, 0) != PPPOE_SESSION_DATA) {
		finish(frame, UNKNOWN);
		return;
	}
	end = frame->position + PPPOE_SIZE + u16(frame, 4);
	protocol = u16(frame, 6);
	if (end > frame->wire_end)
		return;
	narrow(frame, end);
	frame->position += PPPOE_SIZE + PPP_SIZE;
	if (!has(frame, 0))
		return;
	if (protocol == PPP_IPV4)
		decode_ip_inside(frame, TYPE_IPV4);
	else if (protocol == PPP_IPV6)
		decode_ip_inside(frame, TYPE_IPV6);
	else
		finish(frame, protocol >= PPP_CONTROL ? NOT_IP : UNKNOWN);
}

#endif
