// SPDX-License-Identifier: GPL-2.0-only
/*
 * The prefilter: decides which frames are candidates, submits them to user space through the
 * perf ring of the CPU, and counts every frame in exactly one bucket.
 *
 * BCC compiles it when it is loaded, and again when the rules change, with
 *   SNAPLEN               maximum number of bytes kept of a frame
 *   ACTION                the XDP action for every frame, XDP_PASS or XDP_DROP
 *   MULTI_BUFFER          frames may come in several buffers; only the first one is read
 *   DEPTH                 number of packets per flow that are matched; 0: all
 *   LONGEST               largest payload that is matched, in bytes; 0: any
 *   HTTP_AT_ANY_DEPTH     payloads that look like HTTP are matched beyond DEPTH too
 *   FLOW_HAS_TOS, IDLE_JIFFIES, LIFE_JIFFIES    what a flow is, and when it is over
 *   NETWORKS              size of the tables of included and excluded networks; 0: there are none
 *   RAW_IP                1: frames have no link header, and begin with an IP header
 *   IFINDEXES             interfaces that are counted separately, in the order of COUNTERS_FD, by the index
 *                         that each had when the program was loaded first
 * and with file descriptors of the maps that outlive it (sensor/capture/shared_maps.py):
 *   COUNTERS_FD           struct counters, one per interface and CPU
 *   FLOWS_FD              FLOW_SETS times struct flow_set; FLOW_SEEDS for flow_key.h
 *   PORTS_FD              struct ports: the index that each interface has now
 *   FOLLOW_FD             0 as long as no flow was ever followed
 *   HISTORY_CHUNKS        chunks of the history of each CPU (history.h); 0: there is no history
 * and with the tables of the plan (plan.h, sensor/capture/plan_maps.py).
 *
 * A map full of zeroes lets everything pass, so a program that is attached before its maps are
 * filled hides nothing. Frames that cannot be judged here go to user space, which decides.
 */
#include "abi.h"
#include "parse.h"
#include "flow.h"

BPF_PERF_OUTPUT(frames);
#if NETWORKS
BPF_LPM_TRIE(networks4, struct network4, __u32, NETWORKS);
BPF_LPM_TRIE(networks6, struct network6, __u32, NETWORKS);
#endif

#define WORD_SIZE 8
/* Errors of bpf_perf_event_output(), from asm-generic/errno.h. */
#define ENOENT 2
#define E2BIG 7
#define ENOSPC 28
#define EOPNOTSUPP 95
/* Values are read from memory again, so that the verifier can merge the paths that led here. */
#define merge_paths() barrier()
/* An element of a map that outlives the program. BCC knows only the maps it creates itself. */
#define map_element(map_fd, index) \
	bpf_map_lookup_elem_(bpf_pseudo_fd(BPF_PSEUDO_MAP_FD, map_fd), index)

#include "history.h"
#include "plan.h"

/*
 * Everything known about one frame. It is in a map and not on the stack, because the verifier
 * tracks the stack along every path through the headers, and would check the rules' code once per
 * path.
 */
struct work {
	struct packet packet;
	union flow_key_words key;
	__u64 word;		/* the first bytes of the payload, padded with zeroes */
	__u64 payload_len;
	__u64 kept_len;		/* bytes of the payload within SNAPLEN */
	__u64 flow_born_jiffies;
	__u64 ktime_ns;		/* of a frame that is submitted, or goes into the history */
	struct first_states states;
	__u32 flow_packets;
	__u32 flow_place;	/* enum flow_place; FLOW_PLACE_COUNT if no flow began */
	__u32 status;		/* enum packet_status */
	__u32 bucket;		/* enum counter */
	__u32 loss;		/* enum loss, if the bucket is SUBMIT_FAILED */
	__u32 wirelen;
	__u32 place;		/* of the interface, in IFINDEXES */
	__u32 ifindex;		/* there */
	__u32 hash;		/* of the flow's key; 0 if there is no flow */
	__u32 history;		/* enum history_fate; HISTORY_FATE_COUNT if the history does not ask for the frame */
	bool is_followed;
	bool is_word_unreadable;	/* the payload's first bytes are in another buffer */
};

BPF_PERCPU_ARRAY(works, struct work, 1);

/* Returns the first bytes of the payload in memory order, padded with zeroes. */
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

/* Reads everything from the frame that it is judged by. */
static __always_inline void read_frame(const struct frame *frame, struct work *work)
{
	struct packet *packet = &work->packet;

	work->bucket = COUNTER_SUBMITTED;
	work->flow_packets = 0;
	work->flow_place = FLOW_PLACE_COUNT;
	work->flow_born_jiffies = 0;
	work->wirelen = frame->length;
	work->payload_len = 0;
	work->kept_len = 0;
	work->hash = 0;
	work->history = HISTORY_FATE_COUNT;
	work->is_followed = false;
	work->is_word_unreadable = false;
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
	work->is_word_unreadable = packet->payload_offset + WORD_SIZE > frame->linear_length &&
				   frame->linear_length < frame->length;
	if (packet->payload_end <= SNAPLEN)
		work->kept_len = work->payload_len;
	else
		work->kept_len = packet->payload_offset < SNAPLEN ? SNAPLEN - packet->payload_offset : 0;
}

/* Returns true if the included and excluded networks rule the packet out. */
static __always_inline bool is_outside_networks(const struct work *work)
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

/* Returns true if the plan can judge the packet. Fragments, and payloads in other buffers, show too little. */
static __always_inline bool is_judged_by_rules(const struct work *work)
{
	return work->status != PACKET_FRAGMENT && !work->is_word_unreadable;
}

/*
 * Judges a packet by everything but its flow. COUNTER_SUBMITTED means that its flow decides. A flow
 * in which no packet can match anything need not be remembered.
 */
static __always_inline enum counter judge_without_flow(struct work *work)
{
	if (is_outside_networks(work))
		return COUNTER_IGNORED_NETWORK;
	if (is_judged_by_rules(work)) {
		enum counter reason = judge_by_ports(work->packet.protocol, work->packet.sport_be,
						     work->packet.dport_be);

		if (reason != COUNTER_SUBMITTED)
			return reason;
	}
	if (LONGEST && work->kept_len > LONGEST)
		return COUNTER_IGNORED_LENGTH;
	return COUNTER_SUBMITTED;
}

/* Judges a packet by the plan. */
static __always_inline enum counter judge_packet(struct work *work)
{
	if (!is_judged_by_rules(work))
		return COUNTER_SUBMITTED;
	return judge_by_rules(&work->states, work->packet.protocol, work->packet.sport_be,
			      work->packet.dport_be, work->word, work->payload_len);
}

static __always_inline bool may_be_http(const struct work *work)
{
	return work->is_word_unreadable || looks_like_http(work->word, work->payload_len);
}

/* Decides if the frame goes into the history. FLOW: its flow, or NULL. */
static __always_inline void ask_history(struct work *work, struct flow *flow)
{
#if HISTORY_CHUNKS
	work->history = choose_for_history(flow, work->wirelen);
#endif
}

/* Counts the packet in its flow. Returns true if the plan is still to be asked, false if the bucket is final. */
static __always_inline bool judge_in_flow(struct work *work)
{
	struct found_flow found;
	enum verdict verdict = VERDICT_NONE;
	__u64 now_jiffies = bpf_jiffies64();
	__u64 hash = hash_of(&work->key);
	__u32 index = hash * FLOW_SETS >> 32;
	struct flow_set *set = map_element(FLOWS_FD, &index);
	bool is_alive;

	if (!set)	/* cannot happen: arrays have every index, but the verifier does not know that */
		return true;
	find_flow(set, &work->key, tag_of(hash), &found);
	is_alive = found.flow && !is_over(&found, now_jiffies);
	if (is_alive)
		verdict = verdict_on(&found);
	work->hash = hash;
	work->is_followed = verdict == VERDICT_FOLLOW;
	ask_history(work, is_alive ? found.flow : NULL);
	if (work->status == PACKET_NO_PAYLOAD) {
		if (work->is_followed)
			work->bucket = COUNTER_SUBMITTED;
		return false;
	}
	if (!is_alive) {
		work->flow_packets = 1;
		work->flow_born_jiffies = now_jiffies;
		work->flow_place = begin_flow(set, &work->key, tag_of(hash), &found, now_jiffies);
		return true;
	}
	work->flow_packets = count_packet(set, &found, now_jiffies);
	work->flow_born_jiffies = found.born_jiffies;
	if (work->is_followed)
		return false;
	if (verdict == VERDICT_DONE ||
	    (DEPTH && work->flow_packets > DEPTH &&
	     !(HTTP_AT_ANY_DEPTH && may_be_http(work)))) {
		work->bucket = COUNTER_IGNORED_FLOW;
		return false;
	}
	return true;
}

/* Frames without payload are candidates only if their flow is followed. */
static __always_inline bool was_any_flow_followed(void)
{
	int zero = 0;
	__u64 *was_followed = map_element(FOLLOW_FD, &zero);

	return was_followed && *was_followed;
}

/* Judges a frame by everything but its flow. Returns true if the flow, and then the plan, still have to be asked. */
static __always_inline bool needs_flow(struct work *work)
{
	switch (work->status) {
	case PACKET_PAYLOAD:
	case PACKET_FRAGMENT:
		work->bucket = judge_without_flow(work);
		return work->bucket == COUNTER_SUBMITTED;
	case PACKET_NO_PAYLOAD:
		work->bucket = COUNTER_IGNORED_NO_PAYLOAD;
		if (HISTORY_CHUNKS)
			return judge_without_flow(work) == COUNTER_SUBMITTED;
		return was_any_flow_followed();
	case PACKET_NOT_IP:
		work->bucket = COUNTER_IGNORED_NOT_IP;
		return false;
	case PACKET_NO_TRANSPORT:
		work->bucket = COUNTER_IGNORED_NO_TRANSPORT;
		return false;
	default:	/* user space decides */
		ask_history(work, NULL);
		return false;
	}
}

/* Sets the bucket, which is COUNTER_SUBMITTED unless there is a reason to ignore the frame. */
static __always_inline void judge(struct work *work)
{
	if (!needs_flow(work))
		return;
	merge_paths();
	if ((work->kept_len || work->status == PACKET_NO_PAYLOAD) && !judge_in_flow(work))
		return;
	merge_paths();
	work->bucket = judge_packet(work);
}

/* The indexes that interfaces have now: one that was removed and created again has another. */
struct ports {
	__u32 ifindexes[PORTS];
};

/* Sets the frame's interface. A single one is never compared: it keeps its index. */
static __always_inline void find_port(struct xdp_md *ctx, struct work *work)
{
	const __u32 ifindexes[] = { IFINDEXES };
	int zero = 0;
	struct ports *now;

	work->place = 0;
	work->ifindex = ctx->ingress_ifindex;
	if (PORTS == 1)
		return;
	now = map_element(PORTS_FD, &zero);
	if (!now)	/* cannot happen: arrays have every index, but the verifier does not know that */
		return;
#pragma unroll
	for (int i = 0; i < PORTS; i++) {
		if (ctx->ingress_ifindex == now->ifindexes[i]) {
			work->place = i;
			work->ifindex = ifindexes[i];
		}
	}
}

static __always_inline void count(const struct work *work)
{
	__u32 place = work->place;
	struct counters *counters = map_element(COUNTERS_FD, &place);

	if (!counters || work->bucket >= COUNTER_COUNT)
		return;
	counters->buckets[COUNTER_SEEN].frames++;
	counters->buckets[COUNTER_SEEN].bytes += work->wirelen;
	counters->buckets[work->bucket].frames++;
	counters->buckets[work->bucket].bytes += work->wirelen;
	if (work->flow_place < FLOW_PLACE_COUNT)
		counters->flows[work->flow_place]++;
	if (work->bucket == COUNTER_SUBMIT_FAILED && work->loss < LOSS_COUNT)
		counters->losses[work->loss]++;
	if (work->history < HISTORY_FATE_COUNT)
		counters->history[work->history]++;
	counters->followed += work->is_followed;
}

/* Returns the cause of an error of bpf_perf_event_output(). */
static __always_inline enum loss loss_of(int error)
{
	switch (error) {
	case -ENOSPC:
		return LOSS_RING_FULL;
	case -ENOENT:		/* no perf event */
	case -EOPNOTSUPP:	/* the event ended when its CPU went down */
	case -E2BIG:		/* a CPU beyond the map */
		return LOSS_NO_RING;
	default:
		return LOSS_ERROR;
	}
}

static __always_inline void submit(struct xdp_md *ctx, struct work *work)
{
	struct frame_meta meta = {
		.ktime_ns = work->ktime_ns,
		.flow_born_jiffies = work->flow_born_jiffies,
		.flow_packets = work->flow_packets,
		.wirelen = work->wirelen,
		.caplen = work->wirelen,
		.ifindex = work->ifindex,
		.is_followed = work->is_followed,
	};

	if (meta.caplen > SNAPLEN)
		meta.caplen = SNAPLEN;
	/* Must be a statement of its own: BCC's rewriter appends a semicolon. */
	int error = frames.perf_submit_skb(ctx, meta.caplen, &meta, sizeof(meta));
	if (error) {
		work->bucket = COUNTER_SUBMIT_FAILED;
		work->loss = loss_of(error);
	}
}

/* Copies the frame into the history of this CPU, if the history asks for it. */
static __always_inline void keep_in_history(struct xdp_md *ctx, struct work *work)
{
#if HISTORY_CHUNKS
	struct history_entry entry = {
		.ktime_ns = work->ktime_ns,
		.hash = work->hash,
		.caplen = work->wirelen > SNAPLEN ? SNAPLEN : work->wirelen,
		.wirelen = work->wirelen,
		.ifindex = work->ifindex,
	};

	if (work->history == HISTORY_KEPT && !remember(ctx, &entry))
		work->history = HISTORY_FAILED;
#endif
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

	if (!work)	/* cannot happen: arrays have every index, but the verifier does not know that */
		return ACTION;
#if MULTI_BUFFER
	frame.length = bpf_xdp_get_buff_len(ctx);
#else
	frame.length = frame.linear_length;
#endif
	find_port(ctx, work);
	merge_paths();
	read_frame(&frame, work);
	merge_paths();
	judge(work);
	merge_paths();
	if (work->bucket == COUNTER_SUBMITTED || work->history == HISTORY_KEPT)
		work->ktime_ns = bpf_ktime_get_ns();
	if (work->bucket == COUNTER_SUBMITTED)
		submit(ctx, work);
	keep_in_history(ctx, work);
	count(work);
	return ACTION;
}
