"""Random and damaged capture files are read as tshark reads them, and no damage raises another error."""

from __future__ import annotations

import gzip
import random
import shutil
from pathlib import Path

import pytest
from captures import (
    ENHANCED_PACKET,
    OBSOLETE_PACKET,
    Frame,
    block,
    interface,
    lengths_and_times,
    offset,
    option,
    packet,
    pcap,
    read_bytes,
    resolution,
    section,
    shark_until_damage,
    simple_packet,
    simple_pcapng,
    some_frames,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.model import LinkType

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")

LINK_TYPES = (LinkType.ETHERNET, LinkType.LINUX_SLL, LinkType.RAW, LinkType.RAW_BSD, LinkType.RAW_OPENBSD)
# Finer resolutions overflow in tshark 4.0.
RESOLUTIONS = [*range(11), *(0x80 | exponent for exponent in range(35))]


def random_pcapng(dice: random.Random) -> bytes:
    """Return a valid pcapng file of a few sections, with all kinds of blocks and many options."""
    return b"".join(_random_section(dice) for _ in range(dice.randint(1, 3)))


def _random_section(dice: random.Random) -> bytes:
    order = dice.choice("<>")
    comment = option(1, "ä".encode() * dice.randrange(9), order)
    content = section(order, options=dice.choice([b"", comment]))
    snaplens, codes = [], []
    for _ in range(dice.randint(1, 4)):
        snaplens.append(dice.choice([0, 100, 262_144]))
        codes.append(dice.choice(RESOLUTIONS))
        options = [resolution(codes[-1], order), offset(dice.randrange(-1000, 1000), order), comment]
        dice.shuffle(options)
        content += interface(dice.choice(LINK_TYPES), snaplens[-1], b"".join(options), order)
    for _ in range(dice.randint(0, 12)):
        number = dice.randrange(len(snaplens))
        size = dice.randrange(300)
        frame = Frame(dice.randbytes(size), 0, size + dice.randrange(2) * dice.randrange(2000))
        per_second = 2 ** (codes[number] & 0x7F) if codes[number] & 0x80 else 10 ** codes[number]
        ticks = dice.randrange(min(2**64, 4_000_000_000 * per_second))
        content += dice.choice(
            [
                packet(frame, ticks, number, order, ENHANCED_PACKET, dice.choice([b"", comment])),
                packet(frame, ticks, number, order, OBSOLETE_PACKET),
                simple_packet(_cut(frame, snaplens[0]), order),
                block(0x4321, dice.randbytes(dice.randrange(40)), order),
                block(4, bytes(4), order),  # names
                block(5, bytes(12), order),  # statistics
            ]
        )
    return content


def _cut(frame: Frame, snaplen: int) -> Frame:
    """Return a frame as a simple packet block has it."""
    return frame._replace(data=frame.data[: snaplen or None], wirelen=len(frame.data))


def damaged(content: bytes, dice: random.Random, first: int = 4) -> bytes:
    """Return the content with a few changed bits or bytes, and sometimes cut or with bytes left out."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(first, len(changed))
        changed[place] = dice.choice(
            [0, 1, 0x7F, 0xFF, dice.randrange(256), changed[place] ^ 1 << dice.randrange(8)]
        )
    if dice.randrange(4) == 0:
        del changed[dice.randrange(first, len(changed)) :]
    if dice.randrange(8) == 0 and len(changed) > first:
        place = dice.randrange(first, len(changed))
        del changed[place : place + dice.randrange(1, 9)]
    return bytes(changed)


@needs_tshark
@pytest.mark.parametrize("seed", range(12))
def test_random_files(seed: int, tmp_path: Path) -> None:
    """Tshark reads the same lengths and times from valid files of all kinds of blocks."""
    frames, error = read_bytes(tmp_path, random_pcapng(random.Random(seed)))
    assert (lengths_and_times(frames), error or "") == shark_until_damage(tmp_path / "capture")


@needs_tshark
@pytest.mark.parametrize("seed", range(25))
def test_no_frame_is_lost_that_tshark_reads(seed: int, tmp_path: Path) -> None:
    """From a damaged file at least the frames are read that tshark reads before it ends."""
    dice = random.Random(seed)
    frames, _ = read_bytes(tmp_path, damaged(random_pcapng(dice), dice, first=12))
    expected, _ = shark_until_damage(tmp_path / "capture")
    found = [(len(frame.data), max(len(frame.data), frame.wirelen)) for frame in frames]
    assert found[: len(expected)] == [(caplen, max(caplen, wirelen)) for _, caplen, wirelen in expected]


ORIGINALS = [
    pcap(some_frames()),
    pcap(some_frames(), ">", minor=2, is_swapped=True),
    simple_pcapng(some_frames(), ">"),
    *(random_pcapng(random.Random(seed)) for seed in range(20)),
]


@given(st.sampled_from(ORIGINALS), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_raises_no_other_error(
    tmp_path: Path, original: bytes, is_compressed: bool, dice: random.Random
) -> None:
    """Damage gives frames, or an error of one line, in compressed files, too."""
    read_bytes(tmp_path, damaged(gzip.compress(original, mtime=0) if is_compressed else original, dice))
