// SPDX-License-Identifier: GPL-2.0-only
/* Shows how the code that the test writes above judges what stands in a frame. */

struct question {
	__u64 word;
	__u32 payload_len;
	__u16 sport_class;
	__u16 dport_class;
	__u8 protocol;
	__u8 is_about_http;
	__u8 reserved[6];
};

int probe(struct xdp_md *ctx)
{
	struct question *question = (void *)(long)ctx->data;
	enum counter by_ports, by_rules;
	bool is_settled;

	if ((void *)(question + 1) > (void *)(long)ctx->data_end)
		return -1;
	if (question->is_about_http)
		return looks_like_http(question->word, question->payload_len);
	by_ports = judge_by_ports(question->protocol, question->sport_class, question->dport_class);
	by_rules = judge_by_rules(question->protocol, question->sport_class, question->dport_class,
				  question->word, question->payload_len);
	/* The ports have to settle what is for them to settle, and nothing else. */
	is_settled = by_rules == COUNTER_IGNORED_PROTOCOL || by_rules == COUNTER_IGNORED_PORT;
	return by_ports == (is_settled ? by_rules : COUNTER_SUBMITTED) ? by_rules : -1;
}
