// SPDX-License-Identifier: GPL-2.0-only
/* Runs parse.h on a frame and stores the result in a map. */
#include "abi.h"
#include "parse.h"

struct result {
	__u32 status;
	__u32 payload_offset;
	__u32 payload_end;
	__u16 sport;
	__u16 dport;
	__u16 vlan_tci[2];
	__u8 vlan_count;
	__u8 ip_version;
	__u8 protocol;
	__u8 reserved;
};

BPF_ARRAY(results, struct result, 1);
/* For the test that compares these structures with sensor/abi.py, field by field. */
BPF_ARRAY(layout_of_frame_meta, struct frame_meta, 1);
BPF_ARRAY(layout_of_flow, struct flow, 1);
BPF_ARRAY(layout_of_flow_key, struct flow_key, 1);
BPF_ARRAY(layout_of_flow_set, struct flow_set, 1);
BPF_ARRAY(layout_of_network4, struct network4, 1);
BPF_ARRAY(layout_of_network6, struct network6, 1);

int probe(struct xdp_md *ctx)
{
	struct frame frame = {
		.data = (void *)(long)ctx->data,
		.data_end = (void *)(long)ctx->data_end,
		.length = ctx->data_end - ctx->data,
	};
	struct packet packet = {};
	struct result result = {};
	int zero = 0;

	result.status = parse_frame(&frame, &packet);
	if (result.status == PACKET_PAYLOAD || result.status == PACKET_FRAGMENT) {
		result.payload_offset = packet.payload_offset;
		result.payload_end = packet.payload_end;
	}
	result.sport = be16(packet.sport_be);
	result.dport = be16(packet.dport_be);
	result.vlan_tci[0] = packet.vlan_tci[0];
	result.vlan_tci[1] = packet.vlan_tci[1];
	result.vlan_count = packet.vlan_count;
	result.ip_version = packet.ip_version;
	result.protocol = packet.protocol;
	results.update(&zero, &result);
	return XDP_PASS;
}
