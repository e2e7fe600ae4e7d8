// SPDX-License-Identifier: Apache-2.0
/*
 * Suppression: counts items of evidence per rule, flow and second.
 * sensor/native/suppress.py calls this function and allocates the table, which never grows.
 *
 * The table consists of sets of WAYS slots, and a key can be in any slot of its set. If a set is
 * full, the key with the lowest count of the oldest second makes room. A key that is forgotten
 * starts at 0 again: what does not fit is written, never lost. Keys that occur often stay, and
 * these are the ones that reach the limit.
 */
#include <stdint.h>

#include "mix.h"

#define WAYS 8
#define SECONDS 4		/* counted at the same time */

struct slot {
	uint64_t key;
	uint32_t count;
	uint32_t turn;		/* of the second that it counts for; 0: empty */
};

struct seconds {
	int64_t second[SECONDS];
	uint64_t turns;		/* seconds that were begun; turn T is in second[T % SECONDS] */
};

/* Returns the turn of a second; the second that was begun first makes room for a new one. */
static uint32_t turn_of(struct seconds *seconds, int64_t second)
{
	for (uint64_t i = 0; i < SECONDS && i < seconds->turns; i++) {
		uint64_t turn = seconds->turns - i;

		if (seconds->second[turn % SECONDS] == second)
			return (uint32_t)turn;
	}
	seconds->turns++;
	seconds->second[seconds->turns % SECONDS] = second;
	return (uint32_t)seconds->turns;
}

static struct slot *find_slot(struct slot *set, uint64_t key, uint32_t turn, uint32_t oldest)
{
	struct slot *victim = set;

	for (int way = 0; way < WAYS; way++) {
		struct slot *slot = &set[way];

		if (slot->turn == turn && slot->key == key)
			return slot;
		if (slot->turn < oldest)	/* of a second that is over */
			slot->turn = slot->count = 0;
		if (slot->turn < victim->turn ||
		    (slot->turn == victim->turn && slot->count < victim->count))
			victim = slot;
	}
	*victim = (struct slot){.key = key, .turn = turn};
	return victim;
}

/*
 * Sets ADMITTED[I] for each of COUNT items that has a match below LIMIT, or no match at all.
 * Item I has MATCHES[I] matches, whose rule ids follow those of the item before in RULE_IDS.
 * SLOTS is a multiple of WAYS, and a power of two.
 */
void suppress(struct slot *table, uint64_t slots, struct seconds *seconds, uint32_t limit,
	      const int64_t *second, const uint64_t *flow, const uint32_t *matches,
	      const int64_t *rule_ids, int64_t count, uint8_t *admitted)
{
	int64_t current_second = 0;
	uint32_t turn = 0, oldest = 0;

	for (int64_t i = 0; i < count; i++) {
		if (!turn || second[i] != current_second) {
			current_second = second[i];
			turn = turn_of(seconds, current_second);
			oldest = seconds->turns < SECONDS ? 1 : (uint32_t)(seconds->turns - SECONDS + 1);
		}
		admitted[i] = !matches[i];
		for (uint32_t m = 0; m < matches[i]; m++) {
			uint64_t key = mix(flow[i] ^ mix((uint64_t)*rule_ids++));
			struct slot *slot = find_slot(&table[key & (slots - WAYS)], key, turn, oldest);

			if (slot->count < limit) {
				slot->count++;
				admitted[i] = 1;
			}
		}
	}
}
