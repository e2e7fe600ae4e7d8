/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The plan: which payloads the rules ask for, by protocol, ports, length and first bytes. It is data:
 * sensor/rules/prefilter/tables.py makes tables from the rules, and this code is the same for all
 * rules. New rules are loaded as a new program with tables of its own.
 *
 * A decision goes from state to state (abi.h) until it reaches an outcome:
 *   - In a row, some bits of the payload's first word select the next state.
 *   - A prefix is compared with the word. If it does not fit, it names the next state.
 *
 * The tables are maps, with these file descriptors and numbers of elements (powers of two):
 *   PLAN_PORTS_FD		the first state for each TCP port, then for each UDP port
 *   PLAN_ROWS_FD, PLAN_ROWS
 *   PLAN_PREFIXES_FD, PLAN_PREFIXES	struct plan_prefix
 * TCP_STATE, UDP_STATE and OTHER_STATE are the first states for ports that no rule names, HTTP_STATE
 * is the first one for payloads that look like HTTP.
 *
 * Each map has a single element, which contains the whole table, so that the table's address is part
 * of the program and a step needs neither a call nor a check for NULL. As the verifier does not know
 * the content of the tables, indexes are clamped to their size and steps are counted.
 */
#ifndef SENSOR_PLAN_H
#define SENSOR_PLAN_H

#include "abi.h"
#include "parse.h"

#define PLAN_PORTS 65536
#define table(map_fd) ((const void *)bpf_pseudo_fd(BPF_PSEUDO_MAP_VALUE, map_fd))

static __always_inline __u64 row_column(__u64 state, __u64 word)
{
	return word >> (state & 0x3f) & (state >> STATE_MASK_SHIFT & 0xff);
}

static __always_inline __u64 row_start(__u64 state)
{
	return (state >> STATE_START_SHIFT & 0xffff) * STATE_ROW_UNIT;
}

static __always_inline bool is_outcome(__u64 state)
{
	return !(state & (STATE_ROW | STATE_PREFIX));
}

/*
 * Returns COUNTER_SUBMITTED for a payload that a rule may match, or the reason to ignore it. WORD: the
 * first 8 bytes of the payload, read as a little-endian word, with zeroes after its end. A state of zero,
 * as in a table that is not filled, lets everything pass.
 */
static __always_inline enum counter decide(__u64 state, __u64 word, __u64 payload_len)
{
	const __u32 *rows = table(PLAN_ROWS_FD);
	const struct plan_prefix *prefixes = table(PLAN_PREFIXES_FD);

#pragma clang loop unroll(disable)
	for (__u64 step = 0; step < PLAN_STEPS; step++) {
		if (state & STATE_ROW) {
			state = rows[(row_start(state) + row_column(state, word)) & (PLAN_ROWS - 1)];
		} else if (state & STATE_PREFIX) {
			const struct plan_prefix *prefix = &prefixes[state & (PLAN_PREFIXES - 1)];

			if ((word & prefix->mask) == prefix->value && payload_len >= prefix->length)
				return COUNTER_SUBMITTED;
			state = prefix->otherwise;
		} else {
			return state && state < COUNTER_COUNT ? state : COUNTER_SUBMITTED;
		}
	}
	return COUNTER_SUBMITTED;	/* cannot happen: no plan has a longer way */
}

/* Returns the first state for a port that no rule names. */
static __always_inline __u64 common_state(__u8 protocol)
{
	switch (protocol) {
	case PROTOCOL_TCP:
		return TCP_STATE;
	case PROTOCOL_UDP:
		return UDP_STATE;
	default:
		return OTHER_STATE;
	}
}

/* Returns the first state for a port. From there on, the state for other ports is passed, too. */
static __always_inline __u64 port_state(__u8 protocol, __be16 port_be)
{
	const __u32 *ports = table(PLAN_PORTS_FD);

	switch (protocol) {
	case PROTOCOL_TCP:
		return ports[be16(port_be)];
	case PROTOCOL_UDP:
		return ports[PLAN_PORTS + be16(port_be)];
	default:
		return OTHER_STATE;
	}
}

/*
 * Judges a packet by protocol and ports alone: COUNTER_SUBMITTED if the payload must be tested. Reads the
 * ports only if they can be a reason to ignore the packet.
 */
static __always_inline enum counter judge_by_ports(__u8 protocol, __be16 sport_be, __be16 dport_be)
{
	__u64 common = common_state(protocol);

	if (!is_outcome(common) || port_state(protocol, sport_be) != common ||
	    port_state(protocol, dport_be) != common)
		return COUNTER_SUBMITTED;
	return common;
}

/* Where the decision about a packet begins, and where it begins once more for its other port, or 0. */
struct first_states {
	__u32 one;
	__u32 other;
};

/* Most packets have a port that no rule names. The decision for their other port is then enough. */
static __always_inline void
find_states(struct first_states *states, __u8 protocol, __be16 sport_be, __be16 dport_be)
{
	__u32 common = common_state(protocol);
	__u32 by_sport = port_state(protocol, sport_be), by_dport = port_state(protocol, dport_be);

	states->one = by_sport == common ? by_dport : by_sport;
	states->other = by_sport == common || by_dport == common || by_sport == by_dport ? 0 : by_dport;
}

/*
 * Judges a packet by everything that the rules ask for. What is in STATES is read from memory again, so
 * that the verifier can merge the paths that led here; it should be in a map.
 */
static __always_inline enum counter
judge_by_rules(struct first_states *states, __u8 protocol, __be16 sport_be, __be16 dport_be, __u64 word,
	       __u64 payload_len)
{
	enum counter reason;

	find_states(states, protocol, sport_be, dport_be);
	barrier();
	reason = decide(states->one, word, payload_len);
	barrier();
	if (reason == COUNTER_SUBMITTED || !states->other)
		return reason;
	return decide(states->other, word, payload_len);
}

static __always_inline bool looks_like_http(__u64 word, __u64 payload_len)
{
	return decide(HTTP_STATE, word, payload_len) == COUNTER_SUBMITTED;
}

#endif
