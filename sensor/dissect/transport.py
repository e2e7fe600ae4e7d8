"""TCP, UDP, ICMP, and which application or tunnel is behind them; runs wherever `dissect` does."""

from __future__ import annotations

from sensor.dissect.dns import dns, dns_stream
from sensor.dissect.http import http, is_http
from sensor.dissect.layer import FrameReader, Next, Step, flags, hexadecimal
from sensor.dissect.tls import is_tls, tls
from sensor.dissect.tunnel import geneve, gre, gtp, vxlan
from sensor.protocols import GRE, ICMP, ICMPV6, TCP, UDP

_TCP_SIZE_MIN, _UDP_SIZE = 20, 8
_TCP_FLAGS = {1: "FIN", 2: "SYN", 4: "RST", 8: "PSH", 16: "ACK", 32: "URG", 64: "ECE", 128: "CWR"}
_END, _NO_OPERATION = 0, 1
_TCP_OPTIONS = {
    2: "maximum segment size",
    3: "window scale",
    4: "SACK permitted",
    5: "SACK",
    8: "timestamps",
    34: "fast open",
}
_NUMBERS = {2: 2, 3: 1, 8: 4}
"""Options made of numbers, and how long each number is."""
_ICMP_TYPES = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
_ICMPV6_TYPES = {
    1: "unreachable",
    2: "packet too big",
    3: "time exceeded",
    128: "echo request",
    129: "echo reply",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbor solicitation",
    136: "neighbor advertisement",
}


def tcp(cursor: FrameReader) -> Next | None:
    """Read a header with its options (RFC 9293)."""
    start = cursor.begin("TCP")
    cursor.ports = cursor.number("source port", 2), cursor.number("destination port", 2)
    cursor.number("sequence", 4)
    cursor.number("acknowledgment", 4)
    word = int.from_bytes(cursor.take(2))
    size = (word >> 12) * 4
    cursor.note("header length", f"{size} bytes", start + 12, start + 13)
    cursor.note("flags", flags(word & 0xFF, _TCP_FLAGS), start + 13, start + 14)
    cursor.number("window", 2)
    cursor.number("checksum", 2, hexadecimal)
    cursor.number("urgent pointer", 2)
    if size < _TCP_SIZE_MIN:
        return None
    _tcp_options(cursor, start + size)
    return Next("tcp")


def _tcp_options(cursor: FrameReader, end: int) -> None:
    """Read options up to there; one that lies about its length is shown, with all behind it, as it is."""
    while cursor.position < end:
        start = cursor.position
        kind = cursor.take(1)[0]
        if kind == _END:
            cursor.note("option", "end", start, start + 1)
            cursor.octets("option padding", end - cursor.position)
        elif kind == _NO_OPERATION:
            cursor.note("option", "no operation", start, start + 1)
        else:
            length = cursor.take(1)[0] if cursor.position < end else 0
            if not 2 <= length <= end - start:
                cursor.octets("malformed options", end - cursor.position)
                return
            content = cursor.take(length - 2)
            name = _TCP_OPTIONS.get(kind, f"option {kind}")
            cursor.note(name, _option_value(kind, content), start, cursor.position)


def _option_value(kind: int, content: bytes) -> str:
    size = _NUMBERS.get(kind, 0)
    if not size or len(content) % size:
        return content.hex()
    numbers = (int.from_bytes(content[i : i + size]) for i in range(0, len(content), size))
    return ", ".join(map(str, numbers))


def udp(cursor: FrameReader) -> Next:
    """Read a header (RFC 768)."""
    start = cursor.begin("UDP")
    cursor.ports = cursor.number("source port", 2), cursor.number("destination port", 2)
    length = cursor.number("length", 2)
    cursor.number("checksum", 2, hexadecimal)
    if length >= _UDP_SIZE:
        cursor.narrow(start + length)
    return Next("udp")


def icmp(cursor: FrameReader) -> None:
    """Read a header (RFC 792); what it quotes or echoes is data."""
    _icmp(cursor, "ICMP", _ICMP_TYPES)


def icmpv6(cursor: FrameReader) -> None:
    """Read a header (RFC 4443); what it quotes or echoes is data."""
    _icmp(cursor, "ICMPv6", _ICMPV6_TYPES)


def _icmp(cursor: FrameReader, name: str, types: dict[int, str]) -> None:
    cursor.begin(name)
    kind = cursor.number("type", 1, types)
    cursor.number("code", 1)
    cursor.number("checksum", 2, hexadecimal)
    if types.get(kind, "").startswith("echo"):
        cursor.number("identifier", 2)
        cursor.number("sequence", 2)
    else:
        cursor.octets("rest of header", 4)


def stream(cursor: FrameReader) -> Next | None:
    """Read what begins a TCP payload: told by how it looks, DNS by its port."""
    step: Step | None = dns_stream if _DNS_PORT in cursor.ports else None
    for looks_like, reader in ((is_http, http), (is_tls, tls)):
        if looks_like(cursor):
            step = reader
    return step(cursor) if step else None


def datagram(cursor: FrameReader) -> Next | None:
    """Read a UDP payload: told by its port, HTTP (SSDP) by how it looks."""
    source, destination = cursor.ports
    step = _UDP_PORTS.get(destination) or _UDP_PORTS.get(source) or (http if is_http(cursor) else None)
    return step(cursor) if step else None


_DNS_PORT = 53
_UDP_PORTS: dict[int, Step] = {
    _DNS_PORT: dns,
    2152: gtp,
    4789: vxlan,
    5353: dns,
    5355: dns,
    6081: geneve,
    8472: vxlan,  # what Linux used before the port was assigned
}

TRANSPORTS: dict[int, Step] = {ICMP: icmp, TCP: tcp, UDP: udp, GRE: gre, ICMPV6: icmpv6}
