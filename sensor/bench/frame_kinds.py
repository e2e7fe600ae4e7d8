"""The frames ``sensor bench kernel`` measures the kernel program with. Runs in that command."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.bench.probe_frames import ACK, SYN, ipv4, ipv6, tcp, udp
from sensor.protocols import TCP, UDP

BULK_BYTES = 1000
WEB_PORT, NO_RULES_PORT = 443, 47_000


@dataclass(frozen=True)
class FrameKind:
    """A kind of frame that the prefilter ignores."""

    name: str
    frame: bytes
    is_first_of_flow: bool = False
    """True if even a flow's first frame is ignored; measured without a limit of packets per flow."""


def frame_kinds(bulk: bytes) -> list[FrameKind]:
    """Return the kinds that make up most of the traffic of a network, with a payload of ``bulk``."""
    web = ipv4(TCP, tcp(bulk, WEB_PORT))
    return [
        FrameKind("syn", ipv4(TCP, tcp(b"", WEB_PORT, flags=SYN))),
        FrameKind("bare_ack", ipv4(TCP, tcp(b"", WEB_PORT, flags=ACK))),
        FrameKind("other_port", ipv4(TCP, tcp(bulk, NO_RULES_PORT)), is_first_of_flow=True),
        FrameKind("cut_off_flow", web),
        FrameKind("no_prefix", web, is_first_of_flow=True),
        FrameKind("vlan", ipv4(TCP, tcp(bulk, WEB_PORT), vlan=100)),
        FrameKind("ipv6", ipv6(TCP, tcp(bulk, WEB_PORT))),
        FrameKind("udp", ipv4(UDP, udp(bulk[5:], WEB_PORT)), is_first_of_flow=True),
    ]


def http_request() -> bytes:
    """Return a frame that rules for HTTP ask for, however many packets of its flow came before."""
    return ipv4(TCP, tcp(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", 80))
