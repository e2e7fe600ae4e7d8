/* SPDX-License-Identifier: Apache-2.0 */
/* Ethertypes (https://www.iana.org/assignments/ieee-802-numbers). */
#ifndef SENSOR_DECODE_ETHERTYPE_H
#define SENSOR_DECODE_ETHERTYPE_H

#include <stdbool.h>
#include <stdint.h>

enum ethertype {
	TYPE_LENGTHS_END = 0x0600,	/* below it, the length of an 802.3 frame */
	TYPE_IPV4 = 0x0800,
	TYPE_ARP = 0x0806,
	TYPE_ETHERNET = 0x6558,		/* an Ethernet frame inside a tunnel */
	TYPE_RARP = 0x8035,
	TYPE_VLAN = 0x8100,
	TYPE_SLOW = 0x8809,		/* LACP, OAM */
	TYPE_MPLS = 0x8847,
	TYPE_MPLS_UPSTREAM = 0x8848,	/* multicast or upstream-assigned labels (RFC 5332) */
	TYPE_PPPOE_SESSION = 0x8864,
	TYPE_EAPOL = 0x888E,
	TYPE_SERVICE_VLAN = 0x88A8,
	TYPE_LLDP = 0x88CC,
	TYPE_IPV6 = 0x86DD,
	TYPE_PTP = 0x88F7,
	TYPE_CFM = 0x8902,
	TYPE_OLD_SERVICE_VLAN = 0x9100,	/* in use before 802.1ad */
};

static inline bool is_tag(unsigned type)
{
	return type == TYPE_VLAN || type == TYPE_SERVICE_VLAN || type == TYPE_OLD_SERVICE_VLAN;
}

static inline bool is_mpls(unsigned type)
{
	return type == TYPE_MPLS || type == TYPE_MPLS_UPSTREAM;
}

static inline bool is_not_ip(unsigned type)
{
	switch (type) {
	case TYPE_ARP:
	case TYPE_RARP:
	case TYPE_SLOW:
	case TYPE_EAPOL:
	case TYPE_LLDP:
	case TYPE_PTP:
	case TYPE_CFM:
		return true;
	default:
		return false;
	}
}

#endif
