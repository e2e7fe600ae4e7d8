// SPDX-License-Identifier: GPL-2.0-only
/*
 * The prefilter: decides which frames are candidates, sends them whole to user
 * space through the per-CPU perf ring, and counts every frame in exactly one bucket.
 *
 * Compiled by BCC at load time with
 *   SNAPLEN  most bytes kept of a frame
 *   ACTION   the XDP action for every frame, XDP_PASS or XDP_DROP
 *
 * A zeroed plan ignores nothing: a program that is attached before its maps are
 * filled lets everything through.
 */
#include "abi.h"
#include "parse.h"

BPF_PERF_OUTPUT(frames);
BPF_PERCPU_ARRAY(counters, struct counter_value, COUNTER_COUNT);
/* Two, so that a reload fills the one that is not in use and then switches over at once. */
BPF_ARRAY(plans, struct plan, PLAN_COUNT);
BPF_ARRAY(active_plan, __u32, 1);

static __always_inline bool in_set(const __u64 *set, __u16 member)
{
	return set[member >> 6] & (1ULL << (member & 63));
}

static __always_inline bool
both_ports_ignored(const __u64 *ports, const struct packet *packet)
{
	return in_set(ports, be16(packet->sport_be)) && in_set(ports, be16(packet->dport_be));
}

/* COUNTER_SUBMITTED for a candidate, or the reason to ignore the frame. */
static __always_inline enum counter judge_payload(const struct packet *packet)
{
	struct plan *rules = NULL;
	int zero = 0;
	__u32 *active = active_plan.lookup(&zero);

	if (active)
		rules = plans.lookup(active);
	if (!rules)
		return COUNTER_SUBMITTED;
	if (in_set(rules->ignored_protocols, packet->protocol))
		return COUNTER_IGNORED_PROTOCOL;
	if (packet->protocol == PROTOCOL_TCP && both_ports_ignored(rules->ignored_tcp_ports, packet))
		return COUNTER_IGNORED_PORT;
	if (packet->protocol == PROTOCOL_UDP && both_ports_ignored(rules->ignored_udp_ports, packet))
		return COUNTER_IGNORED_PORT;
	return COUNTER_SUBMITTED;
}

static __always_inline enum counter judge(enum packet_status status, const struct packet *packet)
{
	switch (status) {
	case PACKET_PAYLOAD:
		return judge_payload(packet);
	case PACKET_NO_PAYLOAD:
		return COUNTER_IGNORED_NO_PAYLOAD;
	case PACKET_NOT_IP:
		return COUNTER_IGNORED_NOT_IP;
	case PACKET_NO_TRANSPORT:
		return COUNTER_IGNORED_NO_TRANSPORT;
	default:	/* cannot be judged here: user space decides */
		return COUNTER_SUBMITTED;
	}
}

static __always_inline void count(enum counter counter, __u64 bytes)
{
	int key = counter;
	struct counter_value *value = counters.lookup(&key);

	if (!value)
		return;
	value->frames++;
	value->bytes += bytes;
}

int prefilter(struct xdp_md *ctx)
{
	struct frame frame = {
		.data = (void *)(long)ctx->data,
		.data_end = (void *)(long)ctx->data_end,
		.length = ctx->data_end - ctx->data,
	};
	struct packet packet = {};
	enum packet_status status = parse_frame(&frame, &packet);
	enum counter bucket = judge(status, &packet);
	struct frame_meta meta = {};
	__u32 caplen = frame.length;

	if (bucket != COUNTER_SUBMITTED)
		goto out;

	if (caplen > SNAPLEN)
		caplen = SNAPLEN;
	meta.ktime_ns = bpf_ktime_get_ns();
	meta.wirelen = frame.length;
	meta.caplen = caplen;
	meta.ifindex = ctx->ingress_ifindex;
	meta.l3_offset = packet.l3_offset;
	meta.l4_offset = packet.l4_offset;
	meta.payload_offset = packet.payload_offset;
	meta.payload_len = packet.payload_end - packet.payload_offset;
	meta.vlan_tci[0] = packet.vlan_tci[0];
	meta.vlan_tci[1] = packet.vlan_tci[1];
	meta.vlan_count = packet.vlan_count;
	meta.protocol = packet.protocol;
	meta.status = status;
	/* A statement of its own: BCC's rewriter appends a semicolon. */
	int error = frames.perf_submit_skb(ctx, caplen, &meta, sizeof(meta));
	if (error)
		bucket = COUNTER_SUBMIT_FAILED;
out:
	count(COUNTER_SEEN, frame.length);
	count(bucket, frame.length);
	return ACTION;
}
