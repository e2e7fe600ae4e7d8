"""IP protocol numbers and their names, for every module that decodes, describes or builds packets.

Numbers are those of https://www.iana.org/assignments/protocol-numbers. Runs in every process.
"""

from __future__ import annotations

HOP_BY_HOP, ICMP, IGMP, IPV4, TCP, UDP = 0, 1, 2, 4, 6, 17
IPV6, ROUTING, FRAGMENT, GRE = 41, 43, 44, 47
ESP, AH, ICMPV6, NO_NEXT_HEADER, DESTINATION = 50, 51, 58, 59, 60
EIGRP, OSPF, PIM, VRRP = 88, 89, 103, 112
SCTP, MOBILITY, HIP, SHIM6 = 132, 135, 139, 140

HEADER_NAMES = {
    HOP_BY_HOP: "hop-by-hop options",
    ICMP: "ICMP",
    IGMP: "IGMP",
    IPV4: "IPv4",
    TCP: "TCP",
    UDP: "UDP",
    IPV6: "IPv6",
    ROUTING: "routing",
    FRAGMENT: "fragment",
    GRE: "GRE",
    ESP: "ESP",
    AH: "AH",
    ICMPV6: "ICMPv6",
    NO_NEXT_HEADER: "no next header",
    DESTINATION: "destination options",
    OSPF: "OSPF",
    SCTP: "SCTP",
    MOBILITY: "mobility",
    HIP: "HIP",
    SHIM6: "shim6",
}
"""Names shown beside the number in a header field."""

TRANSPORT_NAMES = {number: HEADER_NAMES[number] for number in (ICMP, TCP, UDP, ICMPV6)}
"""Names of transports in evidence and filters; any other transport is written as its number."""

RULE_PROTOCOLS = {"tcp": TCP, "udp": UDP}
"""Protocols a rule can name."""

_TRANSPORT_NUMBERS = {name.lower(): number for number, name in TRANSPORT_NAMES.items()}


def protocol_name(protocol: int) -> str:
    """Return ``TCP``, ``UDP``, ``ICMP`` or ``ICMPv6``; the number as text for any other protocol."""
    return TRANSPORT_NAMES.get(protocol, str(protocol))


def protocol_number(text: str) -> int | None:
    """Return the number of a protocol given by name, in either case, or by number; None if it is neither."""
    if text.isascii() and text.isdecimal() and int(text) < 256:
        return int(text)
    return _TRANSPORT_NUMBERS.get(text.lower())
