"""Community IDs are those that other programs compute: the vectors that the specification publishes."""

from __future__ import annotations

import logging
from ipaddress import ip_address

import pytest
from frames import ICMP, ICMPV6, IPV4, IPV6, SCTP, TCP, UDP, batch_of, ethernet, icmp, ipv4, ipv6

from sensor.decode import decode
from sensor.evidence.community_id import community_id, icmp_message
from sensor.model import FiveTuple

VECTORS = (
    (TCP, "128.232.110.120", 34855, "66.35.250.204", 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (UDP, "192.168.1.52", 54585, "8.8.8.8", 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (SCTP, "192.168.170.8", 7, "192.168.170.56", 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
    (46, "10.1.24.4", 0, "10.1.12.1", 0, "1:/nQI4Rh/TtY3mf0R2gJFBkVlgS4="),
)
MESSAGES = (
    (ICMP, "192.168.0.89", "192.168.0.1", 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (
        ICMPV6,
        "fe80::200:86ff:fe05:80da",
        "fe80::260:97ff:fe07:69ea",
        135,
        0,
        "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
    ),
)


@pytest.mark.parametrize(("protocol", "source", "sport", "destination", "dport", "expected"), VECTORS)
def test_published_vectors(
    protocol: int, source: str, sport: int, destination: str, dport: int, expected: str
) -> None:
    """Both directions have the same identifier."""
    ends = (ip_address(source).packed, sport), (ip_address(destination).packed, dport)
    assert community_id(FiveTuple(protocol, *ends[0], *ends[1])) == expected
    assert community_id(FiveTuple(protocol, *ends[1], *ends[0])) == expected


@pytest.mark.parametrize(("protocol", "source", "destination", "kind", "code", "expected"), MESSAGES)
def test_messages_of_icmp(
    protocol: int, source: str, destination: str, kind: int, code: int, expected: str
) -> None:
    """Type and code stand for the ports; they are read from the frame."""
    build, ethertype = (ipv4, IPV4) if protocol == ICMP else (ipv6, IPV6)
    message = bytes([kind, code]) + icmp(b"payload")[2:]
    frame = ethernet(ethertype, build(protocol, message, source=source, destination=destination))
    batch = batch_of([frame])
    packets = decode(batch)
    five_tuple = FiveTuple(protocol, ip_address(source).packed, 0, ip_address(destination).packed, 0)
    found = icmp_message(five_tuple, frame, int(packets.payload_start[0]))
    assert found == (kind, code)
    assert community_id(five_tuple, found) == expected
    assert community_id(five_tuple) is None


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Commands and the event sender log at this level, and have many flows."""
    caplog.set_level(logging.INFO)
    assert community_id(FiveTuple(TCP, bytes(4), 1, bytes(4), 2))
    assert caplog.text == ""


def test_packets_without_an_identifier() -> None:
    """Fragments without ports, and frames without a packet, have none; nor are they messages."""
    for protocol in (0, TCP, UDP):
        nothing = FiveTuple(protocol, bytes(4), 0, bytes(4), 0)
        assert community_id(nothing) is None
        assert icmp_message(nothing, bytes(60), 42) is None
    assert icmp_message(FiveTuple(ICMP, bytes(4), 0, bytes(4), 0), bytes(60), 0) is None
