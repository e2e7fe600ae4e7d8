"""Tests of decoding: it agrees with a simple reference on every kind of header, whole, cut and damaged."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable
from itertools import islice

import dpkt
import pytest
from frames import (
    DESTINATION,
    IPV4,
    IPV6,
    PAYLOAD,
    TCP,
    UDP,
    Named,
    batch_of,
    corpus,
    ethernet,
    extended,
    ipv4,
    ipv6,
    tcp,
    truncations,
    udp,
)
from reference_decode import Packet, reference_decode
from tunnels import tunnel_corpus

from sensor.decode import decode
from sensor.errors import SensorError
from sensor.model import FrameBatch, LinkType, PacketBatch, PacketStatus

CORPUS = corpus() + tunnel_corpus()
FRAMES = [frame for _, frame in CORPUS]
"""Ethernet frames of every kind."""


def packets_of(batch: FrameBatch) -> Iterable[Packet]:
    """Decode a batch and yield each packet in the form of the reference."""
    packets = decode(batch)
    columns = (getattr(packets, column.name).tolist() for column in dataclasses.fields(PacketBatch))
    for start, status, version, protocol, tos, tags, tci, source, sport, dport, begin, end, flags in zip(
        batch.start.tolist(), *columns, strict=True
    ):
        yield Packet(
            PacketStatus(status),
            version,
            protocol,
            tos,
            tci[:tags],
            source - start if version else source,
            sport,
            dport,
            (begin - start, end - start) if end else (begin, end),
            flags,
        )


def disagreements(named: list[Named], snaplen: int = 1 << 18, linktype: int = LinkType.ETHERNET) -> list[str]:
    """Return the differences between decoding and the reference; a frame in front makes offsets nonzero."""
    frames = [b"\xff" * 20, *(frame for _, frame in named)]
    batch = batch_of(frames, snaplen=snaplen, linktype=linktype)
    found = []
    for (name, frame), packet in zip(named, islice(packets_of(batch), 1, None), strict=True):
        reference = reference_decode(frame[:snaplen], len(frame), linktype)
        if packet != reference:
            found.append(f"{name}: {packet} instead of {reference}")
    return found


def on_link(header: bytes) -> list[Named]:
    """Return every IP packet of the corpus behind another link-layer header."""
    return [(name, header + frame[14:]) for name, frame in CORPUS if frame[12:14] in (b"\x08\0", b"\x86\xdd")]


def test_every_kind_of_frame() -> None:
    """All combinations of headers, valid or not, decode as in the reference."""
    assert disagreements(CORPUS) == []
    assert set(decode(batch_of(FRAMES)).status.tolist()) == set(PacketStatus) - {PacketStatus.TUNNEL}


def test_frame_in_a_batch_of_its_own() -> None:
    """A frame decodes the same alone as in a batch."""
    for name, frame in CORPUS:
        assert list(packets_of(batch_of([frame]))) == [reference_decode(frame, len(frame))], name


def test_frames_cut_on_the_wire() -> None:
    """Frames that end early on the wire, at any byte, decode as in the reference."""
    assert disagreements(list(truncations(CORPUS, smallest=0))) == []


@pytest.mark.parametrize("snaplen", [0, 13, 14, 17, 18, 33, 34, 41, 42, 46, 53, 54, 61, 62, 70, 74, 96, 128])
def test_frames_cut_by_the_snaplen(snaplen: int) -> None:
    """Lengths are checked against the wire length, bytes come from the captured part."""
    assert disagreements(CORPUS, snaplen=snaplen) == []


@pytest.mark.parametrize(
    ("linktype", "header"),
    [
        (LinkType.NULL, b"\2\0\0\0"),
        (LinkType.NULL, b"\0\0\0\2"),
        *((LinkType.NULL, bytes([family, 0, 0, 0])) for family in (10, 24, 28, 30)),
        (LinkType.NULL, b"\0\0\0\x1e"),
        (LinkType.NULL, b"\7\0\0\0"),
        (LinkType.NULL, b"\2\0\0\1"),
        (LinkType.LOOP, b"\0\0\0\2"),
        *((LinkType.LOOP, bytes([0, 0, 0, family])) for family in (10, 24, 28, 30)),
        (LinkType.LOOP, b"\2\0\0\0"),
        (LinkType.RAW_BSD, b""),
        (LinkType.RAW_OPENBSD, b""),
        (LinkType.RAW, b""),
        (LinkType.IPV4, b""),
        (LinkType.IPV6, b""),
        (LinkType.LINUX_SLL, bytes(14) + b"\x08\0"),
        (LinkType.LINUX_SLL, bytes(14) + b"\x86\xdd"),
        (LinkType.LINUX_SLL, bytes(14) + b"\x81\0\0\7\x08\0"),
        (LinkType.LINUX_SLL, bytes(14) + b"\0\4"),
        (LinkType.LINUX_SLL2, b"\x08\0" + bytes(18)),
        (LinkType.LINUX_SLL2, b"\x86\xdd" + bytes(18)),
        (LinkType.LINUX_SLL2, b"\x81\0" + bytes(18) + b"\0\7\x86\xdd"),
    ],
)
def test_other_link_types(linktype: LinkType, header: bytes) -> None:
    """IP packets decode behind every link type, whole and cut."""
    named = on_link(header)
    assert disagreements(named, linktype=linktype) == []
    assert disagreements(named, linktype=linktype, snaplen=len(header) + 27) == []


def test_unknown_link_type() -> None:
    """All frames of an unknown link type are UNKNOWN."""
    packets = decode(batch_of(FRAMES, linktype=147))
    assert (packets.status == PacketStatus.UNKNOWN).all()


def test_empty_batch() -> None:
    """An empty batch gives no packets."""
    assert len(decode(batch_of([]))) == 0


def test_nothing_outside_a_frame_matters() -> None:
    """The bytes between frames do not change how they decode."""
    dice = random.Random(6)
    gaps = [b"\0" * 64, b"\xff" * 64, b"\x45\x06" * 32, dice.randbytes(64), dice.randbytes(64)]
    for snaplen in (1 << 18, 60, 38, 16):
        seen = [list(packets_of(batch_of(FRAMES, gap=gap, snaplen=snaplen))) for gap in gaps]
        assert all(packets == seen[0] for packets in seen)


@pytest.mark.parametrize("linktype", LinkType)
def test_frame_at_the_end_of_its_buffer(linktype: LinkType) -> None:
    """A cut frame at the end of its buffer is decoded without reading past it."""
    for name, frame in truncations([(name, frame[14:]) for name, frame in CORPUS[::60]], smallest=0):
        packet = next(iter(packets_of(batch_of([frame], linktype=linktype))))
        assert packet == reference_decode(frame, len(frame), linktype), name


def test_agreement_with_dpkt() -> None:
    """The library dpkt finds the same addresses, ports and payload in plain packets."""
    transports = [(TCP, tcp), (UDP, udp)]
    frames = [
        *(ethernet(IPV4, ipv4(number, build(PAYLOAD)), padding=bytes(9)) for number, build in transports),
        *(ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD, options=b"\1" * 12), options=b"\1" * 8)) for _ in range(1)),
        *(ethernet(IPV6, ipv6(number, build(PAYLOAD))) for number, build in transports),
        *(ethernet(IPV4, ipv4(number, build(PAYLOAD)), (0x8100,)) for number, build in transports),
        ethernet(IPV6, ipv6(*extended([(DESTINATION, b"\1\4", 16)], UDP, udp(PAYLOAD)))),
    ]
    packets = decode(batch_of(frames, gap=b"\0"))
    start = batch_of(frames, gap=b"\0").start
    for number, frame in enumerate(frames):
        ip = dpkt.ethernet.Ethernet(frame).data
        source = packets.source_offset[number] - start[number]
        width = 4 if packets.ip_version[number] == 4 else 16
        payload = slice(
            packets.payload_start[number] - start[number], packets.payload_end[number] - start[number]
        )
        assert frame[source : source + width] == ip.src
        assert frame[source + width : source + 2 * width] == ip.dst
        assert packets.sport[number] == ip.data.sport
        assert packets.dport[number] == ip.data.dport
        assert frame[payload] == ip.data.data == PAYLOAD


@pytest.mark.parametrize(
    ("column", "value"),
    [("start", -1), ("start", 1 << 62), ("caplen", -1), ("caplen", 1 << 62), ("wirelen", -1)],
)
def test_frames_outside_of_the_buffer_are_refused(column: str, value: int) -> None:
    """A fault in a reader of frames never becomes a read outside of their buffer."""
    batch = batch_of(FRAMES[:3])
    getattr(batch, column)[1] = value
    with pytest.raises(SensorError, match="frame 1 of a batch lies outside"):
        decode(batch)
