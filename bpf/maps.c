// SPDX-License-Identifier: GPL-2.0-only
/*
 * The maps that outlive a program: when the rules change, prefilter.c is compiled anew
 * and goes on counting here. Compiled by BCC with
 *   FLOWS  flows of each IP version that are remembered; of a full table the least recently
 *          used is forgotten
 */
#include "abi.h"

BPF_TABLE_SHARED("percpu_array", int, struct counters, shared_counters, 1);
BPF_TABLE_SHARED("lru_hash", struct flow_key4, struct flow, shared_flows4, FLOWS);
BPF_TABLE_SHARED("lru_hash", struct flow_key6, struct flow, shared_flows6, FLOWS);
/* Until when any flow is followed at all, CLOCK_MONOTONIC; 0: none is. */
BPF_TABLE_SHARED("array", int, __u64, shared_follow, 1);
