"""Ethertypes that `decode` knows (https://www.iana.org/assignments/ieee-802-numbers)."""

from __future__ import annotations

LENGTHS = range(0x0600)
"""Values that are the length of an 802.3 frame, not an ethertype."""
IPV4, IPV6 = 0x0800, 0x86DD
TAGS = (0x8100, 0x88A8, 0x9100)
"""802.1Q, 802.1ad, and the value in use before 802.1ad."""
NOT_IP = (0x0806, 0x8035, 0x8809, 0x888E, 0x88CC, 0x88F7, 0x8902)
"""ARP, RARP, slow protocols (LACP, OAM), EAPOL, LLDP, PTP, CFM."""
MPLS = (0x8847, 0x8848)
"""Unicast; multicast or upstream-assigned labels (RFC 5332)."""
PPPOE_SESSION = 0x8864
ETHERNET = 0x6558
"""An Ethernet frame inside a tunnel."""
