/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A frame, the packet found in it, and checked access to its bytes.
 */
#ifndef SENSOR_PACKET_H
#define SENSOR_PACKET_H

#include "abi.h"

#define VLAN_TAGS_MAX 2
/*
 * No header can start beyond this offset: two VLAN tags, and eight extension headers of at
 * most 2,048 bytes. The verifier requires a bound for every offset into the frame.
 */
#define HEADER_OFFSET_MAX 0x7fff

#define be16(x) __builtin_bswap16(x)
/* Keeps the compiler from moving reads and writes across it. */
#define barrier() asm volatile("" ::: "memory")

struct frame {
	void *data;
	void *data_end;
	__u64 length;
	__u64 linear_length;	/* bytes before data_end; the rest is in further buffers */
};

struct packet {
	__u64 l3_offset;
	__u64 l4_offset;
	__u64 payload_offset;
	__u64 payload_end;
	__u64 ip_end;		/* end of the IP packet; padding may follow */
	/* The fields from here on are 0 if the frame does not have them. */
	__u16 ethertype;
	__u16 sport_be;
	__u16 dport_be;
	__u16 vlan_tci[VLAN_TAGS_MAX];
	__u8 vlan_count;
	__u8 ip_version;
	__u8 protocol;
	bool first_fragment;
};

/* Returns the SIZE bytes at OFFSET, or NULL if the frame ends before them. */
static __always_inline void *header_at(const struct frame *frame, __u64 offset, __u64 size)
{
	void *header;

	if (offset > HEADER_OFFSET_MAX)
		return NULL;
	/* Keeps newer compilers (LLVM 19) from adding before comparing, which the verifier refuses. */
	asm volatile("" : "+r"(offset));
	header = frame->data + offset;
	return header + size > frame->data_end ? NULL : header;
}

#endif
