"""Tests of packets inside tunnels: matched by their inner headers, stored with the whole frame."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

import pytest
from captures import Frame, pcap
from evidence_of import evidence_of
from frames import IPV4, MORE_FRAGMENTS, PAYLOAD, TCP, UDP, batch_of, ethernet, ipv4, tcp, udp
from tunnels import (
    CONTROLLED_LABEL,
    GENEVE_PORT,
    INNER_PACKETS,
    PLAIN_LABEL,
    TUNNELS,
    VXLAN_PORT,
    tunnelled,
    vxlan,
)

from sensor.decode import decode
from sensor.model import Evidence, Rule
from sensor.pipeline import Pipeline
from sensor.rules.engine.matcher import Matcher

WEB = Rule(1, "service", "Web", "Request", "^GET /", protocol=TCP, port=80)
NAMES = Rule(2, "service", "Names", "Question", "^GET /", protocol=UDP, port=53)
ANY = Rule(3, "service", "Any", "Any", "GET /")
[TCP_INSIDE, UDP_INSIDE] = INNER_PACKETS[:2]
CARRY_ETHERNET = {name for name in TUNNELS if name.startswith("vxlan") or name.endswith(("ethernet", "word"))}
ON_LINKS = {name for name in TUNNELS if name.startswith(("mpls", "pppoe"))}
TUNNELLED = [[name] for name in TUNNELS] + [
    [outer, inner]
    for outer in TUNNELS
    for inner in TUNNELS
    if outer in CARRY_ETHERNET or inner not in ON_LINKS
]
"""Combinations found on networks, one and two deep; MPLS and PPPoE occur only inside Ethernet."""


def evidence(frames: Iterable[bytes], *rules: Rule) -> list[Evidence]:
    """Return the evidence the pipeline makes of frames."""
    return evidence_of(Pipeline(Matcher(rules), "any"), batch_of(frames, gap=b"\xff"))


@pytest.mark.parametrize("names", TUNNELLED, ids=", ".join)
def test_rules_match_in_tunnels(names: list[str]) -> None:
    """In one and two tunnels rules match by inner protocol and port; the whole frame is stored."""
    frames = [ethernet(*tunnelled(names, *inside[1:]), padding=bytes(3)) for inside in INNER_PACKETS[:2]]
    web, question = evidence(frames, WEB, NAMES)
    assert [match.rule for match in web.matches] == [WEB]
    assert [match.rule for match in question.matches] == [NAMES]
    assert web.five_tuple == (TCP, ip_address("10.1.0.1").packed, 40001, ip_address("10.2.0.2").packed, 80)
    assert question.five_tuple == (UDP, ip_address("fd00::1").packed, 40001, ip_address("fd00::2").packed, 53)
    assert [web.frame, question.frame] == frames
    assert web.payload == question.payload == PAYLOAD


IN_DATAGRAMS = {name for name in TUNNELS if name.startswith(("vxlan", "geneve"))}


def test_a_third_tunnel_is_not_entered() -> None:
    """A third tunnel counts as undecodable; in a datagram it is that datagram's payload."""
    pipeline = Pipeline(Matcher([ANY]), "any")
    frames = [ethernet(*tunnelled(["gre", "ip in ipv4", name], *TCP_INSIDE[1:])) for name in TUNNELS]
    kept = evidence_of(pipeline, batch_of(frames))
    assert len(kept) == len(IN_DATAGRAMS)
    assert all(item.five_tuple.dport in (VXLAN_PORT, GENEVE_PORT) for item in kept)
    assert pipeline.undecodable == len(TUNNELS) - len(IN_DATAGRAMS)


def test_invalid_inner_packet_is_undecodable() -> None:
    """A frame whose inner packet is invalid is undecodable, not payload."""
    pipeline = Pipeline(Matcher([ANY]), "any")
    names = TUNNELS.keys() - IN_DATAGRAMS - {"mpls"}
    frames = [ethernet(*tunnelled([name], IPV4, b"\xff" * 20 + PAYLOAD)) for name in names]
    assert evidence_of(pipeline, batch_of(frames)) == []
    assert pipeline.undecodable == len(frames)


@pytest.mark.parametrize("name", sorted(IN_DATAGRAMS))
@pytest.mark.parametrize("outer", [[], ["gre"], ["vxlan"]])
def test_a_forged_header_hides_no_payload(name: str, outer: list[str]) -> None:
    """If no valid packet follows a tunnel header, rules see the datagram: a forged header hides nothing."""
    frame = ethernet(*tunnelled([*outer, name], IPV4, b"\xff" * 20 + PAYLOAD))
    [found] = evidence([frame], ANY)
    assert found.five_tuple.protocol == UDP
    assert found.five_tuple.dport in (VXLAN_PORT, GENEVE_PORT)
    assert found.payload.endswith(PAYLOAD)
    assert frame.endswith(found.payload)


@pytest.mark.parametrize("payload", [PAYLOAD, vxlan(PAYLOAD, flags=0), vxlan(PAYLOAD, flags=0x0C), b"GET /"])
def test_invalid_vxlan_is_an_ordinary_datagram(payload: bytes) -> None:
    """Without a valid header, a datagram to the port of VXLAN is payload."""
    [found] = evidence([ethernet(IPV4, ipv4(UDP, udp(payload, dport=VXLAN_PORT)))], ANY)
    assert found.five_tuple.dport == VXLAN_PORT
    assert found.payload == payload


@pytest.mark.parametrize("fragment", [MORE_FRAGMENTS, MORE_FRAGMENTS | 1, 1])
@pytest.mark.parametrize("name", ["gre", "vxlan", "ip in ipv4", "geneve"])
def test_fragments_of_tunnels_are_matched_as_payload(name: str, fragment: int) -> None:
    """Rules without a port see everything after the outer headers of a fragment."""
    frame = bytearray(ethernet(*tunnelled([name], *TCP_INSIDE[1:])))
    frame[20:22] = fragment.to_bytes(2, "big")
    [found] = evidence([bytes(frame)], WEB, ANY)
    assert [match.rule for match in found.matches] == [ANY]
    assert found.payload.endswith(PAYLOAD)
    assert len(found.payload) > len(PAYLOAD)


def test_vlan_tags_are_those_of_the_outer_frame() -> None:
    """VLAN tags inside a tunnel are not reported."""
    names = ["vxlan tagged"]
    frames = [
        ethernet(*tunnelled(names, *TCP_INSIDE[1:])),
        ethernet(*tunnelled(names, *TCP_INSIDE[1:]), (0x8100,)),
    ]
    assert [[tci & 0xFFF for tci in item.vlan] for item in evidence(frames, WEB)] == [[], [101]]


def test_flows_are_those_of_inner_packets() -> None:
    """Both directions of an inner flow are one flow; different outer VLANs are different flows."""
    there = ipv4(TCP, tcp(b"one"), source="10.0.0.1", destination="10.0.0.2")
    back = ipv4(TCP, tcp(b"two", sport=80, dport=40000), source="10.0.0.2", destination="10.0.0.1")
    other = ipv4(TCP, tcp(b"three", sport=40001), source="10.0.0.1", destination="10.0.0.2")
    frames = [
        *(ethernet(*tunnelled(["vxlan"], IPV4, packet)) for packet in (there, back, there, other)),
        ethernet(*tunnelled(["vxlan"], IPV4, there), (0x8100,)),
    ]
    kept = evidence_of(Pipeline(Matcher([ANY]), "flow"), batch_of(frames))
    assert [item.frame for item in kept] == [frames[0], frames[1], frames[3], frames[4]]


def test_agreement_with_wireshark(tmp_path: Path) -> None:
    """The innermost addresses, ports and payload are the same as tshark's in every well-formed tunnel."""
    path = tmp_path / "tunnels.pcap"
    for version, transport, (_, ethertype, packet) in (
        ("ip", "tcp", TCP_INSIDE),
        ("ipv6", "udp", UDP_INSIDE),
    ):
        frames = [ethernet(*tunnelled(names, ethertype, packet)) for names in TUNNELLED]
        path.write_bytes(pcap(Frame(frame, 0, len(frame)) for frame in frames))
        fields = (
            *(f"{version}.{end}" for end in ("src", "dst")),
            *(f"{transport}.{field}" for field in ("srcport", "dstport", "payload")),
        )
        command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "occurrence=l"]
        command += [option for field in fields for option in ("-e", field)]
        command += ["-d", f"mpls.label=={PLAIN_LABEL},pwethnocw"]
        command += ["-d", f"mpls.label=={CONTROLLED_LABEL},pwethcw"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        assert dict(zip(map(", ".join, TUNNELLED), lines, strict=True)) == dict(
            zip(map(", ".join, TUNNELLED), map("\t".join, as_wireshark_shows(frames)), strict=True)
        )


def as_wireshark_shows(frames: list[bytes]) -> Iterable[tuple[str, ...]]:
    """Yield addresses, ports and payload of each decoded frame as text."""
    batch = batch_of(frames)
    packets = decode(batch)
    for index in range(len(frames)):
        width = 4 if packets.ip_version[index] == 4 else 16
        start = packets.source_offset.item(index)
        addresses = [bytes(batch.buffer[start + skip : start + skip + width]) for skip in (0, width)]
        payload = batch.buffer[packets.payload_start.item(index) : packets.payload_end.item(index)]
        yield (
            *(str(ip_address(address)) for address in addresses),
            *(str(ports[index]) for ports in (packets.sport, packets.dport)),
            payload.hex(),
        )
