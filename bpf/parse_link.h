/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Ethernet and VLAN tags; or no link header at all, if RAW_IP is 1.
 */
#ifndef SENSOR_PARSE_LINK_H
#define SENSOR_PARSE_LINK_H

#include "abi.h"
#include "packet.h"

enum ethertype {
	ETHERTYPE_802_3_MAX = 0x05ff,	/* a length, not a type (IEEE 802.3) */
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_ARP = 0x0806,
	ETHERTYPE_RARP = 0x8035,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_IPV6 = 0x86dd,
	ETHERTYPE_SLOW = 0x8809,	/* LACP, OAM */
	ETHERTYPE_MPLS = 0x8847,
	ETHERTYPE_MPLS_UPSTREAM = 0x8848,	/* also multicast (RFC 5332) */
	ETHERTYPE_PPPOE_SESSION = 0x8864,
	ETHERTYPE_EAPOL = 0x888e,
	ETHERTYPE_QINQ = 0x88a8,
	ETHERTYPE_LLDP = 0x88cc,
	ETHERTYPE_PTP = 0x88f7,
	ETHERTYPE_CFM = 0x8902,
	ETHERTYPE_QINQ_OLD = 0x9100,
};

struct ethernet_header {
	__u8 destination[6];
	__u8 source[6];
	__be16 type_be;
};

struct vlan_tag {
	__be16 tci_be;
	__be16 type_be;
};

static __always_inline bool is_vlan(__u16 ethertype)
{
	return ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ ||
	       ethertype == ETHERTYPE_QINQ_OLD;
}

static __always_inline bool is_known_non_ip(__u16 ethertype)
{
	switch (ethertype) {
	case ETHERTYPE_ARP:
	case ETHERTYPE_RARP:
	case ETHERTYPE_SLOW:
	case ETHERTYPE_EAPOL:
	case ETHERTYPE_LLDP:
	case ETHERTYPE_PTP:
	case ETHERTYPE_CFM:
		return true;
	default:
		return ethertype <= ETHERTYPE_802_3_MAX;
	}
}

static __always_inline bool is_link_tunnel(__u16 ethertype)
{
	return ethertype == ETHERTYPE_MPLS || ethertype == ETHERTYPE_MPLS_UPSTREAM ||
	       ethertype == ETHERTYPE_PPPOE_SESSION;
}

/* Returns PACKET_PAYLOAD if an IP header must follow at l3_offset: at the start of the frame, by its version. */
static __always_inline enum packet_status
parse_raw_ip(const struct frame *frame, struct packet *packet)
{
	__u8 *first = header_at(frame, 0, sizeof(*first));

	if (!first)
		return PACKET_MALFORMED;
	packet->l3_offset = 0;
	packet->ethertype = *first >> 4 == 4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
	return PACKET_PAYLOAD;
}

/* Returns PACKET_PAYLOAD if an IP header must follow at l3_offset. */
static __always_inline enum packet_status
parse_ethernet(const struct frame *frame, struct packet *packet)
{
	struct ethernet_header *ethernet = header_at(frame, 0, sizeof(*ethernet));

	if (!ethernet)
		return PACKET_MALFORMED;
	packet->l3_offset = sizeof(*ethernet);
	packet->ethertype = be16(ethernet->type_be);

#pragma unroll
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		struct vlan_tag *tag;

		if (!is_vlan(packet->ethertype))
			break;
		tag = header_at(frame, packet->l3_offset, sizeof(*tag));
		if (!tag)
			return PACKET_MALFORMED;
		packet->vlan_tci[i] = be16(tag->tci_be);
		packet->vlan_count = i + 1;
		packet->ethertype = be16(tag->type_be);
		packet->l3_offset += sizeof(*tag);
	}

	if (packet->ethertype == ETHERTYPE_IPV4 || packet->ethertype == ETHERTYPE_IPV6)
		return PACKET_PAYLOAD;
	if (is_link_tunnel(packet->ethertype))
		return PACKET_TUNNEL;
	return is_known_non_ip(packet->ethertype) ? PACKET_NOT_IP : PACKET_UNKNOWN;
}

#endif
