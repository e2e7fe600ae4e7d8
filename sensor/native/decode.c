// SPDX-License-Identifier: Apache-2.0
/*
 * Decodes frames to packets: header fields and payload spans. sensor/decode/ calls decode_frames();
 * docs/parsing.md has the rules, which bpf/parse.h applies in the kernel up to the first tunnel. The
 * bytes come from anyone: nothing behind the captured end of a frame is read. Nothing here allocates
 * memory or keeps state between calls.
 */
#include <string.h>

#include "decode/link.h"

/* One entry per frame in each array; the columns of FrameBatch and of PacketBatch in sensor/model.py. */
struct frames {
	const uint8_t *data;
	int64_t size;		/* of the data */
	const int64_t *start;
	const int64_t *caplen;
	const int64_t *wirelen;
	int64_t count;
	int64_t link_type;
};

struct packets {
	uint8_t *status;
	uint8_t *ip_version;
	uint8_t *protocol;
	uint8_t *tos;
	uint8_t *vlan_count;
	uint16_t *vlan_tci;	/* two per frame */
	int64_t *source_offset;
	uint16_t *sport;
	uint16_t *dport;
	int64_t *payload_start;
	int64_t *payload_end;
	uint8_t *tcp_flags;
};

/* Enters the tunnel; only the VLAN tags of the outer packet are kept. */
static void decode_inner(struct frame *frame)
{
	struct packet inner = {.status = MALFORMED, .vlan_count = frame->packet.vlan_count};

	memcpy(inner.vlan_tci, frame->packet.vlan_tci, sizeof(inner.vlan_tci));
	frame->packet = inner;
	frame->has_inner = false;
	frame->is_inner = true;
	if (frame->inner_ethertype == TYPE_IPV4)
		decode_ipv4(frame);
	else if (frame->inner_ethertype == TYPE_IPV6)
		decode_ipv6(frame);
	else if (frame->inner_ethertype == TYPE_ETHERNET)
		decode_typed(frame, ETHERNET_SIZE, 12);
	else
		decode_mpls(frame);
}

static void decode_frame(struct frame *frame, int link_type)
{
	decode_link(frame, link_type);
	for (int tunnels = 0; tunnels < TUNNELS_MAX && frame->has_inner; tunnels++)
		decode_inner(frame);
	/* A tunnel's header can be forged at no cost: if no packet is in it, it must not hide the payload. */
	while (frame->datagram_count &&
	       (frame->packet.status == UNKNOWN || frame->packet.status == MALFORMED))
		frame->packet = frame->datagrams[--frame->datagram_count];
}

static void store(const struct packets *packets, int64_t i, const struct packet *packet)
{
	packets->status[i] = packet->status;
	packets->ip_version[i] = packet->ip_version;
	packets->protocol[i] = packet->protocol;
	packets->tos[i] = packet->tos;
	packets->vlan_count[i] = packet->vlan_count;
	memcpy(packets->vlan_tci + 2 * i, packet->vlan_tci, sizeof(packet->vlan_tci));
	packets->source_offset[i] = packet->source_offset;
	packets->sport[i] = packet->sport;
	packets->dport[i] = packet->dport;
	packets->payload_start[i] = packet->payload_start;
	packets->payload_end[i] = packet->payload_end;
	packets->tcp_flags[i] = packet->tcp_flags;
}

/* Decodes all frames. Returns the number of frames before the first that is not within the data. */
int64_t decode_frames(const struct frames *frames, const struct packets *packets)
{
	for (int64_t i = 0; i < frames->count; i++) {
		int64_t start = frames->start[i], caplen = frames->caplen[i], wirelen = frames->wirelen[i];
		struct frame frame;

		if (start < 0 || caplen < 0 || wirelen < 0 || wirelen > UINT32_MAX ||
		    start > frames->size || caplen > frames->size - start)
			return i;
		frame.data = frames->data;
		frame.position = start;
		frame.wire_end = start + wirelen;
		frame.end = start + (caplen < wirelen ? caplen : wirelen);
		frame.is_first_fragment = frame.is_inner = frame.has_inner = false;
		frame.inner_ethertype = 0;
		frame.datagram_count = 0;
		frame.packet = (struct packet){.status = MALFORMED};
		decode_frame(&frame, (int)frames->link_type);
		store(packets, i, &frame.packet);
	}
	return frames->count;
}
