/* SPDX-License-Identifier: Apache-2.0 */
/* One item of evidence; mirrors ITEM in sensor/evidence/block.py, which says what the fields mean. */
#ifndef SENSOR_ITEM_H
#define SENSOR_ITEM_H

#include <stdint.h>

struct item {
	int64_t time_ns;
	uint64_t flow;
	uint64_t ktime_ns;
	uint64_t conversation;
	uint32_t record;
	uint32_t caplen;
	uint32_t wirelen;
	int32_t interface;
	uint32_t first_match;
	uint32_t matches;
	uint32_t payload_start;
	uint32_t payload_end;
	uint16_t linktype;
	uint16_t sport;
	uint16_t dport;
	uint16_t vlan_tci[2];
	uint16_t cpu;
	uint8_t protocol;
	uint8_t ip_version;
	uint8_t vlan_count;
	uint8_t incomplete;
	uint8_t role;
	uint8_t tcp_flags;
	uint8_t reserved[6];
	uint8_t source[16];
	uint8_t destination[16];
};

#endif
