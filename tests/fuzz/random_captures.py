"""Random capture files, with the frames that are in them, and damage to files. Seeded."""

from __future__ import annotations

import random
from typing import NamedTuple

from captures import (
    ENHANCED_PACKET,
    MODIFIED_MAGIC,
    OBSOLETE_PACKET,
    SECOND_NS,
    Frame,
    block,
    interface,
    offset,
    option,
    packet,
    pcap,
    resolution,
    section,
    simple_packet,
)

from sensor.model import LinkType

LINK_TYPES = (LinkType.ETHERNET, LinkType.LINUX_SLL, LinkType.RAW, LinkType.RAW_BSD, 147)
RESOLUTIONS = [*range(11), *(0x80 | exponent for exponent in range(35))]
"""Resolutions that tshark 4.0 can read too: finer ones overflow in it."""


class Capture(NamedTuple):
    """A capture file."""

    content: bytes
    frames: list[Frame]
    ends: list[int]
    """The end of each frame in the file."""


class _Interface(NamedTuple):
    linktype: int
    snaplen: int
    resolution: int
    offset_s: int

    @property
    def per_second(self) -> int:
        exponent = self.resolution & 0x7F
        return 2**exponent if self.resolution & 0x80 else 10**exponent

    def time_ns(self, ticks: int) -> int:
        return ticks * SECOND_NS // self.per_second + self.offset_s * SECOND_NS


def random_capture(rng: random.Random) -> Capture:
    """Return a pcap or pcapng file, at times without frames."""
    return random_pcapng(rng) if rng.random() < 0.6 else random_pcap(rng)


def random_pcap(rng: random.Random) -> Capture:
    """Return a pcap file of any variant."""
    magic = rng.choice((0xA1B2C3D4, 0xA1B23C4D, MODIFIED_MAGIC))
    minor = rng.choice((4, 4, 4, 3, 2, 0))
    order, linktype = rng.choice("<>"), rng.choice(LINK_TYPES)
    swapped = minor < 3 or (minor == 3 and rng.random() < 0.5)
    unit_ns = 1 if magic == 0xA1B23C4D else 1000
    frames, content, ends = [], pcap([], order, magic, linktype, minor=minor), []
    for _ in range(rng.choice((0, 1, 5, 20))):
        data = rng.randbytes(_random_size(rng))
        time_ns = rng.randrange(2**32) * SECOND_NS + rng.randrange(SECOND_NS) // unit_ns * unit_ns
        frames.append(Frame(data, time_ns, len(data) + rng.choice((0, 0, 9000)), linktype))
        content += pcap(frames[-1:], order, magic, linktype, minor=minor, is_swapped=swapped)[24:]
        ends.append(len(content))
    return Capture(content, frames, ends)


def random_pcapng(rng: random.Random) -> Capture:
    """Return a pcapng file of a few sections, with all kinds of blocks and many options."""
    whole = Capture(b"", [], [])
    interfaces = 0
    for _ in range(rng.randint(1, 3)):
        whole, interfaces = _with_section(whole, interfaces, rng)
    return whole


def _with_section(before: Capture, first: int, rng: random.Random) -> tuple[Capture, int]:
    """Return the file with another section, and the number of interfaces in all."""
    content, frames, ends = before.content, [*before.frames], [*before.ends]
    order = rng.choice("<>")
    comment = option(1, "ä".encode() * rng.randrange(9), order)
    content += section(order, options=rng.choice((b"", comment)))
    interfaces: list[_Interface] = []
    for _ in range(rng.randint(1, 4)):
        one = _Interface(
            rng.choice(LINK_TYPES),
            rng.choice((0, 100, 262_144)),
            rng.choice(RESOLUTIONS),
            rng.randrange(-9, 999),
        )
        interfaces.append(one)
        options = [resolution(one.resolution, order), offset(one.offset_s, order), comment]
        rng.shuffle(options)
        content += interface(one.linktype, one.snaplen, b"".join(options), order)
    for _ in range(rng.choice((0, 1, 6, 12, 40))):
        added, frame = _random_block(interfaces, first, comment, order, rng)
        content += added
        if frame:
            frames.append(frame)
            ends.append(len(content))
    return Capture(content, frames, ends), first + len(interfaces)


def _random_block(
    interfaces: list[_Interface], first: int, comment: bytes, order: str, rng: random.Random
) -> tuple[bytes, Frame | None]:
    number = rng.randrange(len(interfaces))
    one = interfaces[number]
    size = _random_size(rng)
    ticks = rng.randrange(min(2**64, 4_000_000_000 * one.per_second))
    frame = Frame(
        rng.randbytes(size), one.time_ns(ticks), size + rng.choice((0, 0, 2000)), one.linktype, first + number
    )
    match rng.randrange(8):
        case 0 | 1 | 2:
            return packet(frame, ticks, number, order, ENHANCED_PACKET, rng.choice((b"", comment))), frame
        case 3:
            return packet(frame, ticks, number, order, OBSOLETE_PACKET), frame
        case 4:
            data = frame.data[: interfaces[0].snaplen or None]
            frame = Frame(data, 0, size, interfaces[0].linktype, first)
            return simple_packet(frame, order), frame
        case 5:
            return block(0x4321, rng.randbytes(rng.choice((0, 1, 40, 3000))), order), None
        case 6:
            return block(4, bytes(4), order), None  # names
        case _:
            return block(5, bytes(12), order), None  # statistics


def _random_size(rng: random.Random) -> int:
    return rng.choice((0, 1, 3, 60, 61, 64, rng.randrange(300), rng.randrange(300), 1514, 9000))


def damaged(content: bytes, rng: random.Random, first: int = 0) -> tuple[bytes, int]:
    """Return the content with damage in a few places from ``first`` on, and the first such place."""
    changed, places = bytearray(content), [len(content)]
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(first, len(changed) + 1)
        places.append(place)
        match rng.randrange(8):
            case 0:
                del changed[place:]
            case 1:
                del changed[place : place + rng.randrange(1, 9)]
            case 2:
                changed[place:place] = rng.choice(
                    (bytes(4), b"\xff" * 4, rng.randbytes(rng.randrange(1, 40)))
                )
            case 3:
                changed[place : place + 4] = rng.choice(
                    (bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", rng.randbytes(4))
                )
            case 4:
                changed[place : place + 1] = bytes([rng.choice((0, 1, 0x7F, 0xFF))])
            case _ if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
        if len(changed) <= first:
            break
    return bytes(changed), min(places)
