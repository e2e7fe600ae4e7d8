// SPDX-License-Identifier: GPL-2.0-only
/* Runs the plan's code, which the test inserts above, on the question in a frame. */

enum subject { RULES, HTTP, PORTS };

struct question {
	__u64 word;
	__u32 payload_len;
	__u16 sport_class;
	__u16 dport_class;
	__u8 protocol;
	__u8 about;	/* enum subject */
	__u8 reserved[6];
};

int probe(struct xdp_md *ctx)
{
	struct question *question = (void *)(long)ctx->data;

	if ((void *)(question + 1) > (void *)(long)ctx->data_end)
		return -1;
	if (question->about == HTTP)
		return looks_like_http(question->word, question->payload_len);
	if (question->about == PORTS)
		return judge_by_ports(question->protocol, question->sport_class, question->dport_class);
	return judge_by_rules(question->protocol, question->sport_class, question->dport_class,
			      question->word, question->payload_len);
}
