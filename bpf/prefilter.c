// SPDX-License-Identifier: GPL-2.0-only
/*
 * The prefilter: decides which frames are candidates, sends them whole to user
 * space through the per-CPU perf ring, and counts every frame in exactly one bucket.
 *
 * Compiled by BCC at load time, and anew when the rules change, with
 *   plan.h                what the rules ask for, written by sensor/rules/emit.py
 *   SNAPLEN               most bytes kept of a frame
 *   ACTION                the XDP action for every frame, XDP_PASS or XDP_DROP
 *   MULTI_BUFFER          frames may come in several buffers, of which the first is looked at
 *   DEPTH, LONGEST        packets of a flow, and bytes of a payload, that are matched
 *   HTTP_AT_ANY_DEPTH     what looks like HTTP is matched behind DEPTH, too
 *   FLOW_HAS_TOS, IDLE_JIFFIES, LIFE_JIFFIES    what a flow is, and when it is over
 *   NETWORKS              networks are included or excluded
 *
 * A zeroed map lets everything through: a program that is attached before its maps are
 * filled hides nothing. What cannot be judged here goes to user space, which decides.
 */
#include "abi.h"
#include "parse.h"
#include "flow.h"
#include "plan.h"

BPF_PERF_OUTPUT(frames);
BPF_TABLE("extern", int, struct counters, shared_counters, 1);
BPF_TABLE("extern", struct flow_key4, struct flow, shared_flows4, FLOWS);
BPF_TABLE("extern", struct flow_key6, struct flow, shared_flows6, FLOWS);
BPF_TABLE("extern", int, __u64, shared_follow, 1);
/* What the rules ask for on a port alone, by its number. */
BPF_ARRAY(port_classes, __u16, 65536);
#if NETWORKS
BPF_LPM_TRIE(networks4, struct network4, __u32, NETWORKS);
BPF_LPM_TRIE(networks6, struct network6, __u32, NETWORKS);
#endif

#define WORD_SIZE 8
/* What was written to memory is read from there again: the verifier forgets by which way it came. */
#define forget_paths() asm volatile("" ::: "memory")

/*
 * What is found out about one frame. In a map, because the verifier follows what it knows of
 * the stack along every way through the headers, and would judge by the rules once for each.
 */
struct work {
	struct packet packet;
	struct flow_key key;
	__u64 word;		/* the first bytes of the payload, zeroes behind its end */
	__u64 payload_len;
	__u64 kept_len;		/* of the payload, as far as SNAPLEN lets user space see it */
	__u64 flow_born_jiffies;
	__u32 flow_packets;
	__u32 status;		/* enum packet_status */
	__u32 bucket;		/* enum counter */
	__u32 wirelen;
	bool is_word_elsewhere;	/* the payload's first bytes are in another buffer */
};

BPF_PERCPU_ARRAY(works, struct work, 1);

/* The first bytes of the payload as they lie in memory; zeroes behind its end. */
static __always_inline __u64
first_word(const struct frame *frame, __u64 payload_offset, __u64 payload_len)
{
	__u64 *whole = header_at(frame, payload_offset, WORD_SIZE);
	__u64 word = 0;

	if (whole)
		return payload_len < WORD_SIZE ? *whole & ((1ULL << 8 * payload_len) - 1) : *whole;
#pragma unroll
	for (int i = 0; i < WORD_SIZE - 1; i++) {
		__u8 *byte = header_at(frame, payload_offset + i, 1);

		if (byte && i < payload_len)
			word |= (__u64)*byte << 8 * i;
	}
	return word;
}

/* Takes from the frame's bytes all that it is judged by. */
static __always_inline void look(const struct frame *frame, struct work *work)
{
	struct packet *packet = &work->packet;

	__builtin_memset(packet, 0, sizeof(*packet));
	work->bucket = COUNTER_SUBMITTED;
	work->flow_packets = 0;
	work->flow_born_jiffies = 0;
	work->wirelen = frame->length;
	work->status = parse_frame(frame, packet);
	if (work->status != PACKET_PAYLOAD && work->status != PACKET_FRAGMENT &&
	    work->status != PACKET_NO_PAYLOAD)
		return;
	if (!set_flow_key(frame, packet, &work->key)) {
		work->status = PACKET_UNKNOWN;
		return;
	}
	if (work->status == PACKET_NO_PAYLOAD)
		return;
	work->payload_len = packet->payload_end - packet->payload_offset;
	work->word = first_word(frame, packet->payload_offset, work->payload_len);
	work->is_word_elsewhere = packet->payload_offset + WORD_SIZE > frame->linear_length &&
				  frame->linear_length < frame->length;
	if (packet->payload_end <= SNAPLEN)
		work->kept_len = work->payload_len;
	else
		work->kept_len = packet->payload_offset < SNAPLEN ? SNAPLEN - packet->payload_offset : 0;
}

static __always_inline bool is_unwatched(const struct work *work)
{
#if NETWORKS
	__u32 *one, *other;

	if (work->packet.ip_version == 4) {
		struct network4 key = { .prefix_len = 32, .address_be = work->key.v4.address_be[0] };

		one = networks4.lookup(&key);
		key.address_be = work->key.v4.address_be[1];
		other = networks4.lookup(&key);
	} else {
		struct network6 key = { .prefix_len = 128 };

		__builtin_memcpy(key.address, work->key.v6.address_be, sizeof(key.address));
		one = networks6.lookup(&key);
		__builtin_memcpy(key.address, work->key.v6.address_be + 4, sizeof(key.address));
		other = networks6.lookup(&key);
	}
	if ((one && *one == NETWORK_EXCLUDED) || (other && *other == NETWORK_EXCLUDED))
		return true;
	return one && *one == NETWORK_OUTSIDE && other && *other == NETWORK_OUTSIDE;
#else
	return false;
#endif
}

static __always_inline __u16 class_of(__be16 port_be)
{
	int port = be16(port_be);
	__u16 *class = port_classes.lookup(&port);

	return class ? *class : 0;
}

/* What the rules say of a packet by itself. */
static __always_inline enum counter judge_packet(const struct work *work)
{
	const struct packet *packet = &work->packet;

	if (work->status == PACKET_FRAGMENT || work->is_word_elsewhere)
		return COUNTER_SUBMITTED;
	return judge_by_rules(packet->protocol, class_of(packet->sport_be), class_of(packet->dport_be),
			      work->word, work->payload_len);
}

static __always_inline struct flow *flow_of(struct work *work)
{
	if (work->packet.ip_version == 4)
		return shared_flows4.lookup(&work->key.v4);
	return shared_flows6.lookup(&work->key.v6);
}

static __always_inline void remember(struct work *work, __u64 now_jiffies)
{
	struct flow fresh = {
		.born_jiffies = now_jiffies,
		.last_jiffies = now_jiffies,
		.packets = 1,
	};

	if (work->packet.ip_version == 4)
		shared_flows4.update(&work->key.v4, &fresh);
	else
		shared_flows6.update(&work->key.v6, &fresh);
}

static __always_inline bool may_be_http(const struct work *work)
{
	return work->is_word_elsewhere || looks_like_http(work->word, work->payload_len);
}

/* Counts the packet to its flow, and changes the bucket where that decides otherwise than the rules. */
static __always_inline void judge_in_flow(struct work *work)
{
	__u64 now_jiffies = bpf_jiffies64();
	struct flow *flow = flow_of(work);

	if (!flow) {
		work->flow_packets = 1;
		work->flow_born_jiffies = now_jiffies;
		remember(work, now_jiffies);
		return;
	}
	work->flow_packets = count_packet(flow, now_jiffies);
	work->flow_born_jiffies = flow->born_jiffies;
	if (is_followed(flow))
		work->bucket = COUNTER_SUBMITTED;
	else if (flow->verdict == VERDICT_DONE)
		work->bucket = COUNTER_IGNORED_FLOW;
	else if (DEPTH && work->flow_packets > DEPTH && !(HTTP_AT_ANY_DEPTH && may_be_http(work)))
		work->bucket = COUNTER_IGNORED_FLOW;
}

static __always_inline void judge_payload(struct work *work)
{
	if (is_unwatched(work)) {
		work->bucket = COUNTER_IGNORED_NETWORK;
		return;
	}
	work->bucket = judge_packet(work);
	if (work->bucket == COUNTER_IGNORED_PROTOCOL || work->bucket == COUNTER_IGNORED_PORT)
		return;		/* no packet of the flow can hit anything: it need not be remembered */
	if (LONGEST && work->kept_len > LONGEST) {
		work->bucket = COUNTER_IGNORED_LENGTH;
		return;
	}
	forget_paths();
	if (work->kept_len)
		judge_in_flow(work);
}

/* A frame without payload is a candidate only where its flow is followed. */
static __always_inline void judge_no_payload(struct work *work)
{
	int zero = 0;
	__u64 *follow_until_ns = shared_follow.lookup(&zero);
	struct flow *flow;

	work->bucket = COUNTER_IGNORED_NO_PAYLOAD;
	if (!follow_until_ns || !*follow_until_ns)
		return;
	flow = flow_of(work);
	if (flow && !is_over(flow, bpf_jiffies64()) && is_followed(flow))
		work->bucket = COUNTER_SUBMITTED;
}

/* The bucket says submit, until something here knows better. */
static __always_inline void judge(struct work *work)
{
	switch (work->status) {
	case PACKET_PAYLOAD:
	case PACKET_FRAGMENT:
		judge_payload(work);
		break;
	case PACKET_NO_PAYLOAD:
		judge_no_payload(work);
		break;
	case PACKET_NOT_IP:
		work->bucket = COUNTER_IGNORED_NOT_IP;
		break;
	case PACKET_NO_TRANSPORT:
		work->bucket = COUNTER_IGNORED_NO_TRANSPORT;
		break;
	default:	/* cannot be judged here: user space decides */
		break;
	}
}

static __always_inline void count(const struct work *work)
{
	int zero = 0;
	struct counters *counters = shared_counters.lookup(&zero);

	if (!counters || work->bucket >= COUNTER_COUNT)
		return;
	counters->of[COUNTER_SEEN].frames++;
	counters->of[COUNTER_SEEN].bytes += work->wirelen;
	counters->of[work->bucket].frames++;
	counters->of[work->bucket].bytes += work->wirelen;
}

int prefilter(struct xdp_md *ctx)
{
	struct frame frame = {
		.data = (void *)(long)ctx->data,
		.data_end = (void *)(long)ctx->data_end,
		.linear_length = ctx->data_end - ctx->data,
	};
	int zero = 0;
	struct work *work = works.lookup(&zero);
	struct frame_meta meta = {};

	if (!work)	/* every index of an array exists; the verifier does not know */
		return ACTION;
#if MULTI_BUFFER
	frame.length = bpf_xdp_get_buff_len(ctx);
#else
	frame.length = frame.linear_length;
#endif
	look(&frame, work);
	forget_paths();
	judge(work);
	forget_paths();
	if (work->bucket != COUNTER_SUBMITTED)
		goto out;

	meta.caplen = work->wirelen;
	if (meta.caplen > SNAPLEN)
		meta.caplen = SNAPLEN;
	meta.ktime_ns = bpf_ktime_get_ns();
	meta.flow_born_jiffies = work->flow_born_jiffies;
	meta.flow_packets = work->flow_packets;
	meta.wirelen = work->wirelen;
	meta.ifindex = ctx->ingress_ifindex;
	/* A statement of its own: BCC's rewriter appends a semicolon. */
	int error = frames.perf_submit_skb(ctx, meta.caplen, &meta, sizeof(meta));
	if (error)
		work->bucket = COUNTER_SUBMIT_FAILED;
out:
	count(work);
	return ACTION;
}
