// SPDX-License-Identifier: GPL-2.0-only
/* Asks the plan the question in a frame. */
#include "abi.h"
#include "parse.h"
#include "plan.h"

enum subject { BY_RULES, HTTP, BY_PORTS };

struct question {
	__u64 word;
	__u32 payload_len;
	__be16 sport_be;
	__be16 dport_be;
	__u8 protocol;
	__u8 about;	/* enum subject */
	__u8 reserved[6];
};

int probe(struct xdp_md *ctx)
{
	struct question *question = (void *)(long)ctx->data;
	struct first_states states;

	if ((void *)(question + 1) > (void *)(long)ctx->data_end)
		return -1;
	if (question->about == HTTP)
		return looks_like_http(question->word, question->payload_len);
	if (question->about == BY_PORTS)
		return judge_by_ports(question->protocol, question->sport_be, question->dport_be);
	return judge_by_rules(&states, question->protocol, question->sport_be, question->dport_be,
			      question->word, question->payload_len);
}
