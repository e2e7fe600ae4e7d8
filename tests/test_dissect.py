"""Tests of dissecting frames: fields agree with tshark, and no input raises an exception."""

from __future__ import annotations

import struct
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.dissect import HeaderLayer, dissect
from sensor.model import LinkType
from tests.frames import GRE, IPV4, IPV6, MPLS, TCP, UDP, corpus, ethernet, ipv4, ipv6, tcp, truncations, udp

REQUEST = b"GET /a?b=c HTTP/1.1\r\nHost: example.org\r\n\r\nbody"
INNER = ethernet(IPV4, ipv4(TCP, tcp(REQUEST)))
TUNNELS = {
    "vxlan": ethernet(
        IPV4, ipv4(UDP, udp(bytes.fromhex("0800000000002a00") + INNER, sport=50000, dport=4789))
    ),
    "geneve": ethernet(
        IPV4, ipv4(UDP, udp(bytes.fromhex("0000655800002a00") + INNER, sport=50000, dport=6081))
    ),
    "gre": ethernet(IPV4, ipv4(GRE, bytes.fromhex("20000800 0000002a") + INNER[14:])),
    "gre-ethernet": ethernet(IPV6, ipv6(GRE, bytes.fromhex("00006558") + INNER)),
    "gtp": ethernet(
        IPV4,
        ipv4(
            UDP,
            udp(b"\x30\xff" + struct.pack("!HI", len(INNER) - 14, 7) + INNER[14:], sport=50000, dport=2152),
        ),
    ),
    "ip-in-ip": ethernet(IPV4, ipv4(4, INNER[14:])),
    "mpls": ethernet(MPLS, bytes.fromhex("0001003f 0002013f") + INNER[14:]),
    "pppoe": ethernet(0x8864, struct.pack("!BBHHH", 0x11, 0, 9, len(INNER) - 12, 0x21) + INNER[14:]),
}
ALL = {**dict(corpus()), **TUNNELS, **{f"mix {i}": f.data for i, f in enumerate(mix.demo(seed=3).frames)}}

SAME = {
    ("Ethernet", "destination"): "eth.dst",
    ("Ethernet", "source"): "eth.src",
    ("VLAN", "id"): "vlan.id",
    ("PPPoE", "session"): "pppoe.session_id",
    ("ARP", "sender protocol address"): "arp.src.proto_ipv4",
    ("IPv4", "total length"): "ip.len",
    ("IPv4", "TTL"): "ip.ttl",
    ("IPv4", "protocol"): "ip.proto",
    ("IPv4", "source"): "ip.src",
    ("IPv4", "destination"): "ip.dst",
    ("IPv6", "source"): "ipv6.src",
    ("IPv6", "destination"): "ipv6.dst",
    ("IPv6", "hop limit"): "ipv6.hlim",
    ("TCP", "source port"): "tcp.srcport",
    ("TCP", "destination port"): "tcp.dstport",
    ("TCP", "sequence"): "tcp.seq",
    ("TCP", "window"): "tcp.window_size_value",
    ("UDP", "source port"): "udp.srcport",
    ("UDP", "destination port"): "udp.dstport",
    ("UDP", "length"): "udp.length",
    ("ICMP", "type"): "icmp.type",
    ("ICMPv6", "type"): "icmpv6.type",
    ("VXLAN", "network identifier"): "vxlan.vni",
    ("Geneve", "network identifier"): "geneve.vni",
    ("GRE", "protocol"): "gre.proto",
    ("GTP-U", "tunnel endpoint"): "gtp.teid",
    ("DNS", "id"): "dns.id",
    ("DNS", "questions"): "dns.count.queries",
    ("HTTP", "method"): "http.request.method",
    ("HTTP", "target"): "http.request.uri",
    ("HTTP", "status"): "http.response.code",
    ("TLS", "server name"): "tls.handshake.extensions_server_name",
    ("TLS", "random"): "tls.handshake.random",
}
"""Layer and field, and the name tshark has for it."""
Found = tuple[str, int, int, str]


@pytest.fixture(scope="module")
def seen_by_tshark(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[Found]]:
    """Return name, start, end and value of the compared fields, for each frame of `ALL`."""
    path = tmp_path_factory.mktemp("dissect") / "all.pcap"
    write_capture(path, [Frame(0, frame) for frame in ALL.values()])
    options = (
        "tcp.desegment_tcp_streams",
        "tcp.analyze_sequence_numbers",
        "tcp.relative_sequence_numbers",
        "ip.defragment",
        "ipv6.defragment",
    )
    command = ["tshark", "-r", path, "-T", "pdml", *(f"-o{option}:FALSE" for option in options)]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    packets = ET.fromstring(output).iter("packet")  # noqa: S314 - written by tshark
    return {name: set(_pdml_fields(packet)) for name, packet in zip(ALL, packets, strict=True)}


def _pdml_fields(packet: ET.Element) -> Iterator[Found]:
    for field in packet.iter("field"):
        name, start = field.get("name", "").replace("ieee8021ad", "vlan"), int(field.get("pos", 0))
        if name in SAME.values() and (size := int(field.get("size", 0))):
            yield name, start, start + size, _plain(field.get("show", ""))


def _plain(value: str) -> str:
    """Return a value in a common form: decimal numbers without names, addresses without punctuation."""
    first = value.split(" ")[0] if not value.startswith("/") else value
    try:
        return str(int(first, 0))
    except ValueError:
        return first.lower().replace("-", ":").replace(":", "")


def ours(layers: list[HeaderLayer]) -> set[Found]:
    """Return the compared fields under tshark's names."""
    return {
        (SAME[layer.name, field.name], field.start, field.end, _plain(field.value))
        for layer in layers
        for field in layer.fields
        if (layer.name, field.name) in SAME
    }


def test_fields_are_where_tshark_sees_them(seen_by_tshark: dict[str, set[Found]]) -> None:
    """Fields have tshark's values and offsets, in ordinary traffic and in tunnels; each kind occurs."""
    compared = set()
    for name in [*TUNNELS, *(name for name in ALL if name.startswith("mix"))]:
        found = ours(dissect(ALL[name], LinkType.ETHERNET))
        wrong = found - seen_by_tshark[name]
        assert not wrong, (name, sorted(seen_by_tshark[name]))
        compared |= {field for field, *_ in found}
    assert compared >= set(SAME.values()) - {"icmpv6.type"}


def check_layers(frame: bytes, linktype: int = LinkType.ETHERNET) -> list[HeaderLayer]:
    """Return the layers; assert that they cover the frame without gaps and contain their fields."""
    layers = dissect(frame, linktype)
    ends = [0, *(layer.end for layer in layers)]
    assert [layer.start for layer in layers] == ends[:-1]
    assert ends[-1] == len(frame)
    for layer in layers:
        for field in layer.fields:
            assert layer.start <= field.start < field.end <= layer.end, (layer, field)
    return layers


def test_layers_cover_each_frame() -> None:
    """Frames of every kind are covered, whole and cut off at every byte."""
    for _, frame in [*ALL.items(), *truncations(corpus()[::7], smallest=0), *truncations(TUNNELS.items(), 0)]:
        check_layers(frame)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("vxlan", ["Ethernet", "IPv4", "UDP", "VXLAN", "Ethernet", "IPv4", "TCP", "HTTP", "Data"]),
        ("geneve", ["Ethernet", "IPv4", "UDP", "Geneve", "Ethernet", "IPv4", "TCP", "HTTP", "Data"]),
        ("gre", ["Ethernet", "IPv4", "GRE", "IPv4", "TCP", "HTTP", "Data"]),
        ("gre-ethernet", ["Ethernet", "IPv6", "GRE", "Ethernet", "IPv4", "TCP", "HTTP", "Data"]),
        ("gtp", ["Ethernet", "IPv4", "UDP", "GTP-U", "IPv4", "TCP", "HTTP", "Data"]),
        ("ip-in-ip", ["Ethernet", "IPv4", "IPv4", "TCP", "HTTP", "Data"]),
        ("mpls", ["Ethernet", "MPLS", "MPLS", "IPv4", "TCP", "HTTP", "Data"]),
        ("pppoe", ["Ethernet", "PPPoE", "IPv4", "TCP", "HTTP", "Data"]),
    ],
)
def test_tunnels_are_followed(name: str, layers: list[str]) -> None:
    """Each tunnel is dissected up to the HTTP request inside."""
    assert [layer.name for layer in dissect(TUNNELS[name], LinkType.ETHERNET)] == layers


def test_padding_is_not_payload() -> None:
    """Bytes after the IP packet are a layer of their own."""
    *_, data, padding = dissect(
        ethernet(IPV4, ipv4(UDP, udp(b"x", dport=9, sport=9)), padding=bytes(17)), LinkType.ETHERNET
    )
    assert (data.name, data.end - data.start) == ("Data", 1)
    assert (padding.name, padding.end - padding.start) == ("Padding", 17)


def test_looping_dns_names_end() -> None:
    """Reading ends at a compression pointer that does not lead back."""
    for name in (b"\xc0\x0c", b"\x01a\xc0\x0c", b"\xc0\x0e\xc0\x0c"):
        message = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + name + b"\x00\x01\x00\x01"
        dns = check_layers(ethernet(IPV4, ipv4(UDP, udp(message))))[3]
        assert dns.name == "DNS"


def test_http_headers_are_fields() -> None:
    """A header is a field under its own name, with the bytes of the whole line."""
    layers = dissect(INNER, LinkType.ETHERNET)
    [host] = [field for field in layers[3].fields if field.name == "Host"]
    assert host.value == "example.org"
    assert INNER[host.start : host.end] == b"Host: example.org"
