"""Blocks as bytes: what comes back is the same, and what a hostile process sends is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.block_codec import (
    MalformedBlockError,
    block_bytes,
    check_origin,
    decode_block,
    encode_block,
)
from sensor.evidence.pcap import SNAPLEN
from sensor.model import Evidence, FiveTuple, Match, Role, Rule

RULES = [Rule(number, "threat", "T", f"rule {number}", f"x{number}") for number in range(5)]
NOON_NS = 1_687_089_600_000_000_000
FOUR = FiveTuple(17, b"\x00\x00\x0a\x01", 12345, b"\x00\x00\x00\x0a", 9)
SIX = FiveTuple(6, bytes(range(16)), 1, bytes(range(16, 32)), 2)


def item(time_ns: int = NOON_NS, caplen: int = 62) -> Evidence:
    """Return evidence with a frame of this length, whose payload starts at byte 42."""
    return Evidence(bytes(range(42)) + bytes(caplen - 42), time_ns, 80, 1, 1, FOUR, (), 42, caplen, ())


def sample() -> EvidenceBlock:
    """Return a block with all kinds of items: without matches, with several, of IPv6, with VLAN tags."""
    items = [item(NOON_NS + number * 1_001_001, 60 + number) for number in range(12)]
    items = [
        one._replace(
            matches=tuple(Match(RULES[(number + k) % 5], 0, 1) for k in range(number % 4)),
            vlan=(7, 8)[: number % 3],
        )
        for number, one in enumerate(items)
    ]
    items[3] = items[3]._replace(five_tuple=SIX)
    items[4] = items[4]._replace(role=Role.BEFORE, conversation=77)
    return block_of_objects(items)


def encoded(block: EvidenceBlock) -> NDArray[np.uint8]:
    """Return the bytes of a block."""
    data = np.zeros(block_bytes(len(block), len(block.rules), len(block.records)), np.uint8)
    encode_block(block, data)
    return data


def decoded(data: NDArray[np.uint8], like: EvidenceBlock) -> EvidenceBlock:
    """Return the block in these bytes, whose sizes are those of another block."""
    return decode_block(data, len(like), len(like.rules), len(like.records), like.rule_set)


def test_a_block_comes_back() -> None:
    """All columns are the same; so are those of an empty block and of a part of a block."""
    whole = sample()
    for block in (whole, block_of_objects([]), whole.part(2, 7), whole.select(whole.items["matches"] == 1)):
        back = decoded(encoded(block), block)
        assert back.items.tobytes() == block.items.tobytes()
        assert back.rules.tolist() == block.rules.tolist()
        assert back.records.tobytes() == block.records.tobytes()


def test_a_frame_that_was_cut() -> None:
    """The payload of a frame longer than the snaplen may end behind the part that is kept."""
    long = item(caplen=SNAPLEN + 100)
    block = block_of_objects([long])
    assert decoded(encoded(block), block).items["payload_end"].tolist() == [long.payload_end]


@pytest.mark.parametrize("time_ns", [-1, 0, -(10**18), (1 << 63) - 1])
def test_times_that_no_record_can_hold(time_ns: int) -> None:
    """The writer counts such frames as failed; the block itself is sound."""
    block = block_of_objects([item(time_ns=time_ns)])
    assert len(decoded(encoded(block), block)) == 1


def changed(field: str, position: int, value: object) -> Callable[[EvidenceBlock], None]:
    """Return a function that sets a field of an item."""

    def change(block: EvidenceBlock) -> None:
        block.items[field][position] = value

    return change


def with_rules(*numbers: int) -> Callable[[EvidenceBlock], None]:
    """Return a function that sets the first rules of a block."""

    def change(block: EvidenceBlock) -> None:
        block.rules[: len(numbers)] = numbers

    return change


def swap_records(block: EvidenceBlock) -> None:
    """Let the first two items refer to each other's record."""
    block.items["record"][:2] = block.items["record"][1::-1]


def damage_header(block: EvidenceBlock) -> None:
    """Change the length in the header of the second record."""
    block.records[int(block.items["record"][1]) + 8] ^= 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (changed("record", 5, 1 << 31), "a record is not where the one before it ends"),
        (changed("record", 0, 1), "a record is not where the one before it ends"),
        (swap_records, "a record is not where the one before it ends"),
        (changed("caplen", 11, 0xFFFFFFFF), "a frame is too long"),
        (changed("caplen", 11, 10), "the last record does not end where its column ends"),
        (changed("caplen", 4, 10), "a record is not where the one before it ends"),
        (changed("first_match", 5, 0xFFFFFFFF), "a match is not where the one before it ends"),
        (changed("matches", 11, 0xFFFFFFFF), "the last match does not end where its column ends"),
        (changed("matches", 3, 0xFFFFFFFF), "a match is not where the one before it ends"),
        (with_rules(5), "a rule is unknown"),
        (with_rules(0xFFFFFFFF), "a rule is unknown"),
        (with_rules(0, 3, 3), "a rule matches an item twice"),
        (changed("payload_start", 2, 61), None),
        (changed("payload_start", 2, 63), "a payload ends before its start"),
        (changed("payload_end", 2, 63), "a payload ends behind its frame"),
        (changed("vlan_count", 2, 3), "a frame has too many VLAN tags"),
        (changed("ip_version", 2, 5), "an IP version is neither 4 nor 6"),
        (changed("ip_version", 2, 0), "a frame without a packet has an address"),
        (changed("ip_version", 3, 4), "an IPv4 address has more than 4 bytes"),
        (changed("incomplete", 3, 1), None),
        (changed("incomplete", 3, 2), "a mark of incomplete items is neither 0 nor 1"),
        (changed("role", 0, Role.AFTER), None),
        (changed("role", 0, 3), "a role is unknown"),
        (changed("role", 3, Role.AFTER), "a frame of a conversation's context matches"),
        (changed("conversation", 3, (1 << 52) - 1), None),
        (changed("conversation", 3, 1 << 52), "the number of a conversation is too high"),
        (changed("reserved", 3, 1), "reserved bytes are not 0"),
        (changed("time_ns", 3, 0), "the header of a record does not agree with its item"),
        (changed("wirelen", 3, 0), "the header of a record does not agree with its item"),
        (damage_header, "the header of a record does not agree with its item"),
    ],
)
def test_contradictions_are_refused(change: Callable[[EvidenceBlock], None], fault: str | None) -> None:
    """The error says what is wrong."""
    block = sample()
    change(block)
    if fault is None:
        decoded(encoded(block), block)
    else:
        with pytest.raises(MalformedBlockError, match=fault):
            decoded(encoded(block), block)


def test_sizes_that_do_not_agree() -> None:
    """Sizes are checked before anything is read, whatever they claim."""
    block = sample()
    data = encoded(block)
    sizes = [len(block), len(block.rules), len(block.records)]
    for place in range(3):
        for wrong in (-1, 0, sizes[place] + 1, 1 << 31, (1 << 32) - 1):
            claimed = [*sizes]
            claimed[place] = wrong
            with pytest.raises(MalformedBlockError, match="are not"):
                decode_block(data, *claimed, RULES)
    with pytest.raises(MalformedBlockError):
        decode_block(data[:-1], *sizes, RULES)


def test_the_origin() -> None:
    """Link types and interfaces are compared with those that the sender can have; it numbers no one."""
    block = sample()
    with pytest.raises(MalformedBlockError, match="in a conversation already"):
        check_origin(block, [1], [1])
    block.items["conversation"] = 0
    check_origin(block, [1], [1])
    check_origin(block_of_objects([]), [1], [1])
    with pytest.raises(MalformedBlockError, match="another link type"):
        check_origin(block, [101], [1])
    with pytest.raises(MalformedBlockError, match="another interface"):
        check_origin(block, [1], [2, 3])
