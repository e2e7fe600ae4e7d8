/* SPDX-License-Identifier: Apache-2.0 */
/* Transport headers: TCP, UDP, ICMP and ICMPv6. */
#ifndef SENSOR_DECODE_TRANSPORT_H
#define SENSOR_DECODE_TRANSPORT_H

#include "frame.h"
#include "tunnel.h"

#define TCP_SIZE_MIN 20
#define UDP_SIZE 8
#define ICMP_SIZE 8

static inline void decode_ports(struct frame *frame)
{
	frame->packet.sport = (uint16_t)u16(frame, 0);
	frame->packet.dport = (uint16_t)u16(frame, 2);
}

/* TCP with its options (RFC 9293, section 3.1). */
static inline void decode_tcp(struct frame *frame)
{
	unsigned size;

	if (!has(frame, TCP_SIZE_MIN))
		return;
	decode_ports(frame);
	frame->packet.tcp_flags = (uint8_t)u8(frame, 13);
	size = (u8(frame, 12) >> 4) * 4;
	if (size < TCP_SIZE_MIN || !has(frame, size))
		return;
	frame->position += size;
	finish_at_payload(frame, PAYLOAD);
}

/* UDP (RFC 768); length 0 means up to the end of the IP packet (RFC 2675, section 4). */
static inline void decode_udp(struct frame *frame)
{
	unsigned length;

	if (!has(frame, UDP_SIZE))
		return;
	decode_ports(frame);
	length = u16(frame, 4);
	if (length) {
		int64_t end = frame->position + length;

		if (length < UDP_SIZE || (end > frame->wire_end && !frame->is_first_fragment))
			return;
		if (end < frame->wire_end)
			narrow(frame, end);
	}
	frame->position += UDP_SIZE;
	finish_at_payload(frame, PAYLOAD);
	decode_in_udp(frame);
}

/* The first eight bytes of an ICMP or ICMPv6 message (RFC 792, RFC 4443). */
static inline void decode_icmp(struct frame *frame)
{
	if (!has(frame, ICMP_SIZE))
		return;
	frame->position += ICMP_SIZE;
	finish_at_payload(frame, PAYLOAD);
}

#endif
