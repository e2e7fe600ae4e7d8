// SPDX-License-Identifier: Apache-2.0
/*
 * Numbers for the flows of packets: equal for both directions of a flow, and unpredictable without
 * the seed. sensor/native/flow_hash.py calls this function, sensor/rules/engine/flows.py says what a
 * flow is.
 */
#include <string.h>

#include "mix.h"

#define IPV4 4
#define IPV6 6
#define VLAN_ID 0xFFF

/* One entry per packet of the batch in each array; two tags per packet. */
struct packets {
	const uint8_t *data;
	int64_t size;		/* of the data */
	const int64_t *source_offset;
	const uint8_t *ip_version;
	const uint8_t *protocol;
	const uint8_t *tos;
	const uint16_t *vlan_tci;
	const uint16_t *sport;
	const uint16_t *dport;
	int64_t count;
};

static uint64_t hash_end(uint64_t seed, const uint8_t *address, int words, uint16_t port)
{
	uint64_t hash = seed ^ (uint64_t)port << 32;

	for (int at = 0; at < words; at++) {
		uint32_t word;

		memcpy(&word, address + 4 * at, sizeof(word));
		hash = mix(hash ^ word);
	}
	return hash;
}

/*
 * Stores the flow of each of COUNT packets, which lie at the positions CHOSEN, in KEYS. Of the type of
 * service, the bits in SERVICE count. Returns -1 if a packet or its addresses are not within the arrays.
 */
int64_t hash_flows(const struct packets *packets, const int64_t *chosen, int64_t count, uint64_t seed,
		   uint8_t service, uint64_t *keys)
{
	for (int64_t i = 0; i < count; i++) {
		int64_t at = chosen[i], start;
		uint64_t source, destination, rest, low, high;
		int words;

		if (at < 0 || at >= packets->count)
			return -1;
		start = packets->source_offset[at];
		words = packets->ip_version[at] == IPV4 ? 1 : packets->ip_version[at] == IPV6 ? 4 : 0;
		if (start < 0 || start > packets->size - 8 * words)
			return -1;
		source = hash_end(seed, packets->data + start, words, packets->sport[at]);
		destination = hash_end(seed, packets->data + start + 4 * words, words, packets->dport[at]);
		rest = packets->tos[at] & service;
		low = source;
		high = destination;
		if (!rest && source > destination) {
			low = destination;
			high = source;
		}
		rest = rest << 8 | packets->protocol[at] | (uint64_t)(packets->vlan_tci[2 * at] & VLAN_ID) << 16 |
		       (uint64_t)(packets->vlan_tci[2 * at + 1] & VLAN_ID) << 32;
		keys[i] = mix(mix(low ^ rest) + high);
	}
	return count;
}
