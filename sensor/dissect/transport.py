"""TCP, UDP and ICMP, and the application or tunnel in them. Runs where `dissect` runs."""

from __future__ import annotations

from sensor.dissect.dns import dns, dns_stream
from sensor.dissect.frame_reader import FrameReader, Next, Step, flags, hexadecimal
from sensor.dissect.http import http, is_http
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
"""Options made of numbers, and the size of each number in bytes."""
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


def tcp(reader: FrameReader) -> Next | None:
    """Read a TCP header with its options (RFC 9293)."""
    start = reader.begin_layer("TCP")
    reader.ports = reader.read_number("source port", 2), reader.read_number("destination port", 2)
    reader.read_number("sequence", 4)
    reader.read_number("acknowledgment", 4)
    word = int.from_bytes(reader.read(2))
    size = (word >> 12) * 4
    reader.add_field("header length", f"{size} bytes", start + 12, start + 13)
    reader.add_field("flags", flags(word & 0xFF, _TCP_FLAGS), start + 13, start + 14)
    reader.read_number("window", 2)
    reader.read_number("checksum", 2, hexadecimal)
    reader.read_number("urgent pointer", 2)
    if size < _TCP_SIZE_MIN:
        return None
    _tcp_options(reader, start + size)
    return Next("tcp")


def _tcp_options(reader: FrameReader, end: int) -> None:
    """Read options up to ``end``; an option with a wrong length, and all bytes after it, are one field."""
    while reader.position < end:
        start = reader.position
        kind = reader.read(1)[0]
        if kind == _END:
            reader.add_field("option", "end", start, start + 1)
            reader.read_bytes("option padding", end - reader.position)
        elif kind == _NO_OPERATION:
            reader.add_field("option", "no operation", start, start + 1)
        else:
            length = reader.read(1)[0] if reader.position < end else 0
            if not 2 <= length <= end - start:
                reader.read_bytes("malformed options", end - reader.position)
                return
            content = reader.read(length - 2)
            name = _TCP_OPTIONS.get(kind, f"option {kind}")
            reader.add_field(name, _option_value(kind, content), start, reader.position)


def _option_value(kind: int, content: bytes) -> str:
    size = _NUMBERS.get(kind, 0)
    if not size or len(content) % size:
        return content.hex()
    numbers = (int.from_bytes(content[i : i + size]) for i in range(0, len(content), size))
    return ", ".join(map(str, numbers))


def udp(reader: FrameReader) -> Next:
    """Read a UDP header (RFC 768)."""
    start = reader.begin_layer("UDP")
    reader.ports = reader.read_number("source port", 2), reader.read_number("destination port", 2)
    length = reader.read_number("length", 2)
    reader.read_number("checksum", 2, hexadecimal)
    if length >= _UDP_SIZE:
        reader.narrow(start + length)
    return Next("udp")


def icmp(reader: FrameReader) -> None:
    """Read an ICMP header (RFC 792); the quoted or echoed bytes are data."""
    _icmp(reader, "ICMP", _ICMP_TYPES)


def icmpv6(reader: FrameReader) -> None:
    """Read an ICMPv6 header (RFC 4443); the quoted or echoed bytes are data."""
    _icmp(reader, "ICMPv6", _ICMPV6_TYPES)


def _icmp(reader: FrameReader, name: str, types: dict[int, str]) -> None:
    reader.begin_layer(name)
    kind = reader.read_number("type", 1, types)
    reader.read_number("code", 1)
    reader.read_number("checksum", 2, hexadecimal)
    if types.get(kind, "").startswith("echo"):
        reader.read_number("identifier", 2)
        reader.read_number("sequence", 2)
    else:
        reader.read_bytes("rest of header", 4)


def stream(reader: FrameReader) -> Next | None:
    """Read the start of a TCP payload: HTTP and TLS are recognized by content, DNS by its port."""
    step: Step | None = dns_stream if _DNS_PORT in reader.ports else None
    for is_protocol, protocol_step in ((is_http, http), (is_tls, tls)):
        if is_protocol(reader):
            step = protocol_step
    return step(reader) if step else None


def datagram(reader: FrameReader) -> Next | None:
    """Read a UDP payload, recognized by its port; HTTP (SSDP) is recognized by content."""
    source, destination = reader.ports
    step = _UDP_PORTS.get(destination) or _UDP_PORTS.get(source) or (http if is_http(reader) else None)
    return step(reader) if step else None


_DNS_PORT = 53
_UDP_PORTS: dict[int, Step] = {
    _DNS_PORT: dns,
    2152: gtp,
    4789: vxlan,
    5353: dns,
    5355: dns,
    6081: geneve,
    8472: vxlan,  # used by Linux before a port was assigned
}

TRANSPORTS: dict[int, Step] = {ICMP: icmp, TCP: tcp, UDP: udp, GRE: gre, ICMPV6: icmpv6}
