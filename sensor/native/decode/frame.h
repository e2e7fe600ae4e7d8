/* SPDX-License-Identifier: Apache-2.0 */
/* The frame that is being decoded: a position in it, and what is known of its packet. */
#ifndef SENSOR_DECODE_FRAME_H
#define SENSOR_DECODE_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#define TUNNELS_MAX 2

/* Mirrors PacketStatus in sensor/model.py. */
enum status {
	PAYLOAD, NO_PAYLOAD, NOT_IP, NO_TRANSPORT, FRAGMENT, TUNNEL, UNKNOWN, MALFORMED,
};

/* The columns of PacketBatch in sensor/model.py, for one packet. */
struct packet {
	int64_t source_offset;
	int64_t payload_start;
	int64_t payload_end;
	uint16_t vlan_tci[2];
	uint16_t sport;
	uint16_t dport;
	uint8_t status;
	uint8_t ip_version;
	uint8_t protocol;
	uint8_t tos;
	uint8_t vlan_count;
	uint8_t tcp_flags;
};

/*
 * A position at the start of a header. Bytes from END on do not belong to the frame: check with
 * has() before u8() and u16(). WIRE_END is the end of the enclosing layer on the wire, against
 * which the lengths in headers are checked.
 */
struct frame {
	const uint8_t *data;		/* the buffer of the batch; the next three are offsets in it */
	int64_t position;
	int64_t end;
	int64_t wire_end;
	bool is_first_fragment;		/* the first of several: its UDP header gives the length of all */
	bool is_inner;			/* in a tunnel, whose VLAN tags are skipped, not reported */
	bool has_inner;			/* position is the start of an inner packet, to be decoded next */
	uint16_t inner_ethertype;	/* the type of that packet */
	uint8_t datagram_count;
	struct packet packet;
	struct packet datagrams[TUNNELS_MAX + 1];	/* those that may carry a tunnel, as they are without one */
};

static inline bool has(const struct frame *frame, int64_t size)
{
	return frame->position + size <= frame->end;
}

static inline unsigned u8(const struct frame *frame, int offset)
{
	return frame->data[frame->position + offset];
}

static inline unsigned u16(const struct frame *frame, int offset)
{
	return u8(frame, offset) << 8 | u8(frame, offset + 1);
}

static inline void finish(struct frame *frame, enum status status)
{
	frame->packet.status = (uint8_t)status;
}

/* The rest of the frame is payload. */
static inline void finish_at_payload(struct frame *frame, enum status status)
{
	if (frame->position >= frame->end) {
		finish(frame, NO_PAYLOAD);
		return;
	}
	finish(frame, status);
	frame->packet.payload_start = frame->position;
	frame->packet.payload_end = frame->end;
}

/* Enters a layer that ends at WIRE_END. */
static inline void narrow(struct frame *frame, int64_t wire_end)
{
	if (wire_end < frame->end)
		frame->end = wire_end;
	frame->wire_end = wire_end;
}

/* The inner packet starts here; it is UNKNOWN unless it is decoded later. */
static inline void defer(struct frame *frame, uint16_t ethertype)
{
	finish(frame, UNKNOWN);
	frame->packet.payload_start = frame->packet.payload_end = 0;
	frame->inner_ethertype = ethertype;
	frame->has_inner = true;
}

/* The same inside a datagram, which is kept as it is in case that there is no packet in it. */
static inline void defer_datagram(struct frame *frame, uint16_t ethertype)
{
	frame->datagrams[frame->datagram_count++] = frame->packet;
	defer(frame, ethertype);
}

#endif
