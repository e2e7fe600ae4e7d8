// SPDX-License-Identifier: GPL-2.0-only
/*
 * The prefilter: decides which frames are candidates, sends them whole to user
 * space through the per-CPU perf ring, and counts every frame in exactly one bucket.
 *
 * Compiled by BCC at load time, and anew when the rules change, with
 *   plan.h                what the rules ask for, written by sensor/rules/prefilter/emit.py; PORTS_DECIDE: ports
 *                         alone may say that nothing is
 *   SNAPLEN               most bytes kept of a frame
 *   ACTION                the XDP action for every frame, XDP_PASS or XDP_DROP
 *   MULTI_BUFFER          frames may come in several buffers, of which the first is looked at
 *   DEPTH, LONGEST        packets of a flow, and bytes of a payload, that are matched
 *   HTTP_AT_ANY_DEPTH     what looks like HTTP is matched behind DEPTH, too
 *   FLOW_HAS_TOS, IDLE_JIFFIES, LIFE_JIFFIES    what a flow is, and when it is over
 *   NETWORKS              networks are included or excluded
 *   IFINDEXES             interfaces whose frames are counted apart, in the order of COUNTERS_FD
 * and with the maps that outlive it, by their file descriptors (sensor/capture/program.py):
 *   COUNTERS_FD           struct counters, one for each interface and CPU
 *   FLOWS_FD              struct flow_set, FLOW_SETS of them; FLOW_SEEDS for flow_key.h
 *   FOLLOW_FD             until when any flow is followed at all, CLOCK_MONOTONIC; 0: none is
 *
 * A zeroed map lets everything through: a program that is attached before its maps are
 * filled hides nothing. What cannot be judged here goes to user space, which decides.
 */
#include "abi.h"
#include "parse.h"
#include "flow.h"
#include "plan.h"

BPF_PERF_OUTPUT(frames);
/* What the rules ask for on a port alone, by its number. */
BPF_ARRAY(port_classes, __u16, 65536);
#if NETWORKS
BPF_LPM_TRIE(networks4, struct network4, __u32, NETWORKS);
BPF_LPM_TRIE(networks6, struct network6, __u32, NETWORKS);
#endif

#define WORD_SIZE 8
/* What was written to memory is read from there again: the verifier forgets by which way it came. */
#define forget_paths() barrier()
/* An element of a map that outlives the program; BCC knows only those that it makes itself. */
#define element_of(map_fd, index) \
	bpf_map_lookup_elem_(bpf_pseudo_fd(BPF_PSEUDO_MAP_FD, map_fd), index)

/*
 * What is found out about one frame. In a map, because the verifier follows what it knows of
 * the stack along every way through the headers, and would judge by the rules once for each.
 */
struct work {
	struct packet packet;
	union flow_key_words key;
	__u64 word;		/* the first bytes of the payload, zeroes behind its end */
	__u64 payload_len;
	__u64 kept_len;		/* of the payload, as far as SNAPLEN lets user space see it */
	__u64 flow_born_jiffies;
	__u32 flow_packets;
	__u32 flow_place;	/* enum flow_place; FLOW_PLACE_COUNT where no flow began */
	__u32 status;		/* enum packet_status */
	__u32 bucket;		/* enum counter */
	__u32 wirelen;
	__u16 sport_class;	/* what the rules ask for on the ports */
	__u16 dport_class;
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

	work->bucket = COUNTER_SUBMITTED;
	work->flow_packets = 0;
	work->flow_place = FLOW_PLACE_COUNT;
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
		struct network4 key = { .prefix_len = 32, .address_be = work->key.key.address_be[0] };

		one = networks4.lookup(&key);
		key.address_be = work->key.key.address_be[1];
		other = networks4.lookup(&key);
	} else {
		struct network6 key = { .prefix_len = 128 };

		__builtin_memcpy(key.address, work->key.key.address_be, sizeof(key.address));
		one = networks6.lookup(&key);
		__builtin_memcpy(key.address, work->key.key.address_be + 4, sizeof(key.address));
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

static __always_inline void look_up_ports(struct work *work)
{
	work->sport_class = class_of(work->packet.sport_be);
	work->dport_class = class_of(work->packet.dport_be);
}

/* Whether a packet is to be judged by itself: of a fragment there is too little to see here. */
static __always_inline bool is_judged_by_rules(const struct work *work)
{
	return work->status != PACKET_FRAGMENT && !work->is_word_elsewhere;
}

/*
 * What is known before the packet is counted to its flow: COUNTER_SUBMITTED where the flow matters.
 * Where no packet of the flow can hit anything it need not be remembered.
 */
static __always_inline enum counter judge_without_flow(struct work *work)
{
	if (is_unwatched(work))
		return COUNTER_IGNORED_NETWORK;
	if (is_judged_by_rules(work)) {
		enum counter reason;

		if (PORTS_DECIDE)
			look_up_ports(work);
		reason = judge_by_ports(work->packet.protocol, work->sport_class, work->dport_class);
		if (reason != COUNTER_SUBMITTED)
			return reason;
	}
	if (LONGEST && work->kept_len > LONGEST)
		return COUNTER_IGNORED_LENGTH;
	return COUNTER_SUBMITTED;
}

/* What the rules say of a packet by itself. */
static __always_inline enum counter judge_packet(struct work *work)
{
	if (!is_judged_by_rules(work))
		return COUNTER_SUBMITTED;
	if (!PORTS_DECIDE)	/* most packets are cut off by then */
		look_up_ports(work);
	return judge_by_rules(work->packet.protocol, work->sport_class, work->dport_class, work->word,
			      work->payload_len);
}

static __always_inline bool may_be_http(const struct work *work)
{
	return work->is_word_elsewhere || looks_like_http(work->word, work->payload_len);
}

/* Counts the packet to its flow; whether the rules are to be asked, or the bucket is settled. */
static __always_inline bool judge_in_flow(struct work *work)
{
	struct found_flow found;
	enum verdict verdict = VERDICT_NONE;
	__u64 now_jiffies = bpf_jiffies64();
	__u64 hash = hash_of(&work->key);
	__u32 index = hash * FLOW_SETS >> 32;
	struct flow_set *set = element_of(FLOWS_FD, &index);
	bool lives;

	if (!set)	/* every index of an array exists; the verifier does not know */
		return true;
	find_flow(set, &work->key, tag_of(hash), &found);
	lives = found.flow && !is_over(&found, now_jiffies);
	if (lives)
		verdict = verdict_on(&found);
	if (work->status == PACKET_NO_PAYLOAD) {
		if (verdict == VERDICT_FOLLOW)
			work->bucket = COUNTER_SUBMITTED;
		return false;
	}
	if (!lives) {
		work->flow_packets = 1;
		work->flow_born_jiffies = now_jiffies;
		work->flow_place = begin_flow(set, &work->key, tag_of(hash), &found, now_jiffies);
		return true;
	}
	work->flow_packets = count_packet(set, &found, now_jiffies);
	work->flow_born_jiffies = found.born_jiffies;
	if (verdict == VERDICT_FOLLOW)
		return false;
	if (verdict == VERDICT_DONE ||
	    (DEPTH && work->flow_packets > DEPTH &&
	     !(HTTP_AT_ANY_DEPTH && may_be_http(work)))) {
		work->bucket = COUNTER_IGNORED_FLOW;
		return false;
	}
	return true;
}

/* A frame without payload is a candidate only where its flow is followed. */
static __always_inline bool is_any_flow_followed(void)
{
	int zero = 0;
	__u64 *follow_until_ns = element_of(FOLLOW_FD, &zero);

	return follow_until_ns && *follow_until_ns;
}

/* Whether the bucket is still open: its flow has to say, and then the rules. */
static __always_inline bool is_for_flow(struct work *work)
{
	switch (work->status) {
	case PACKET_PAYLOAD:
	case PACKET_FRAGMENT:
		work->bucket = judge_without_flow(work);
		return work->bucket == COUNTER_SUBMITTED;
	case PACKET_NO_PAYLOAD:
		work->bucket = COUNTER_IGNORED_NO_PAYLOAD;
		return is_any_flow_followed();
	case PACKET_NOT_IP:
		work->bucket = COUNTER_IGNORED_NOT_IP;
		return false;
	case PACKET_NO_TRANSPORT:
		work->bucket = COUNTER_IGNORED_NO_TRANSPORT;
		return false;
	default:	/* cannot be judged here: user space decides */
		return false;
	}
}

/* The bucket says submit, until something here knows better. */
static __always_inline void judge(struct work *work)
{
	if (!is_for_flow(work))
		return;
	forget_paths();
	if ((work->kept_len || work->status == PACKET_NO_PAYLOAD) && !judge_in_flow(work))
		return;
	forget_paths();
	work->bucket = judge_packet(work);
}

/* Which of the interfaces a frame came by; of a single one nothing is asked. */
static __always_inline __u32 interface_of(struct xdp_md *ctx)
{
	const __u32 ifindexes[] = { IFINDEXES };

#pragma unroll
	for (int i = 1; i < sizeof(ifindexes) / sizeof(*ifindexes); i++)
		if (ctx->ingress_ifindex == ifindexes[i])
			return i;
	return 0;
}

static __always_inline void count(struct xdp_md *ctx, const struct work *work)
{
	__u32 interface = interface_of(ctx);
	struct counters *counters = element_of(COUNTERS_FD, &interface);

	if (!counters || work->bucket >= COUNTER_COUNT)
		return;
	counters->of[COUNTER_SEEN].frames++;
	counters->of[COUNTER_SEEN].bytes += work->wirelen;
	counters->of[work->bucket].frames++;
	counters->of[work->bucket].bytes += work->wirelen;
	if (work->flow_place < FLOW_PLACE_COUNT)
		counters->flows[work->flow_place]++;
}

static __always_inline void submit(struct xdp_md *ctx, struct work *work)
{
	struct frame_meta meta = {
		.ktime_ns = bpf_ktime_get_ns(),
		.flow_born_jiffies = work->flow_born_jiffies,
		.flow_packets = work->flow_packets,
		.wirelen = work->wirelen,
		.caplen = work->wirelen,
		.ifindex = ctx->ingress_ifindex,
	};

	if (meta.caplen > SNAPLEN)
		meta.caplen = SNAPLEN;
	/* A statement of its own: BCC's rewriter appends a semicolon. */
	int error = frames.perf_submit_skb(ctx, meta.caplen, &meta, sizeof(meta));
	if (error)
		work->bucket = COUNTER_SUBMIT_FAILED;
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
	if (work->bucket == COUNTER_SUBMITTED)
		submit(ctx, work);
	count(ctx, work);
	return ACTION;
}
