"""An `EvidenceBlock` as bytes, and the checks that bytes from another process have to pass.

A process that parses untrusted frames may have been taken over, so nothing it sends is believed. The bytes of
a block are its columns as they are in memory: items of dtype `ITEM`, rules as uint32, and the records. All
checks work on whole columns.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import ITEM, EvidenceBlock
from sensor.evidence.conversation import CONVERSATION_MAX
from sensor.evidence.pcap import RECORD_HEADER_BYTES, SNAPLEN
from sensor.model import Role, Rule
from sensor.native.records import copy_records, write_records

RULE = np.dtype("<u4")
_HEADER_WORD = np.dtype("<u4")


_CLOCK_NS = 1_000_000_000
"""Difference between two readings of the monotonic clock that is no fault."""


class MalformedBlockError(Exception):
    """The bytes are not a block, or the block contradicts itself."""


def block_bytes(items: int, rules: int, records_bytes: int) -> int:
    """Return the size of a block with so many items, matches and bytes of records."""
    return items * ITEM.itemsize + rules * RULE.itemsize + records_bytes


def block_columns(block: EvidenceBlock) -> tuple[memoryview, memoryview, memoryview]:
    """Return the bytes of a block: its items, its rules and its records; nothing is copied if possible."""
    items = np.ascontiguousarray(block.items, ITEM).view(np.uint8)
    rules = np.ascontiguousarray(block.rules, RULE).view(np.uint8)
    return items.data, rules.data, np.ascontiguousarray(block.records, np.uint8).data


def encode_block(block: EvidenceBlock, target: NDArray[np.uint8]) -> None:
    """Write the bytes of a block to the start of ``target``, which has at least `block_bytes`."""
    start = 0
    for column in block_columns(block):
        target[start : start + len(column)] = column
        start += len(column)


def decode_block(
    data: NDArray[np.uint8], items: int, rules: int, records_bytes: int, rule_set: Sequence[Rule]
) -> EvidenceBlock:
    """Return the block whose bytes are ``data``; its columns are views of it, and read-only.

    Args:
        data: The bytes, shape (`block_bytes`,); nobody else may be able to change them any more.
        items: The number of items.
        rules: The number of matches.
        records_bytes: The size of the records.
        rule_set: The rules that the matches refer to.

    Raises:
        MalformedBlockError: the sizes do not agree, or `check_block` fails.
    """
    if min(items, rules, records_bytes) < 0 or len(data) != block_bytes(items, rules, records_bytes):
        raise MalformedBlockError(
            f"{items} items, {rules} matches and their records are not {len(data)} bytes"
        )
    data = data.view()
    data.flags.writeable = False
    rules_start = items * ITEM.itemsize
    records_start = rules_start + rules * RULE.itemsize
    block = EvidenceBlock(
        data[:rules_start].view(ITEM),
        data[rules_start:records_start].view(RULE),
        data[records_start:],
        rule_set,
    )
    check_block(block)
    return block


def check_block(block: EvidenceBlock) -> None:
    """Check that every offset, index and count in a block is within its bounds.

    The records and the matches of the items follow each other without holes, the headers of the records agree
    with the items, no rule matches an item twice, and the payloads lie in their frames.

    Raises:
        MalformedBlockError: they are not.
    """
    items, rules = block.items, block.rules
    _require((items["caplen"] <= SNAPLEN).all(), "a frame is too long")
    _check_order(
        items["record"], items["caplen"].astype(np.int64) + RECORD_HEADER_BYTES, len(block.records), "record"
    )
    _check_order(items["first_match"], items["matches"].astype(np.int64), len(rules), "match")
    _require((rules < len(block.rule_set)).all(), "a rule is unknown")
    _require(_are_distinct(block), "a rule matches an item twice")
    is_cut = items["caplen"] == SNAPLEN  # the payload may end behind the part that is kept
    _require((items["payload_start"] <= items["payload_end"]).all(), "a payload ends before its start")
    _require((is_cut | (items["payload_end"] <= items["caplen"])).all(), "a payload ends behind its frame")
    _require((items["vlan_count"] <= items["vlan_tci"].shape[1]).all(), "a frame has too many VLAN tags")
    _require((items["incomplete"] <= 1).all(), "a mark of incomplete items is neither 0 nor 1")
    _require((items["role"] <= max(Role)).all(), "a role is unknown")
    _require(not block.is_context[block.item_of_match].any(), "a frame of a conversation's context matches")
    _require((items["conversation"] <= CONVERSATION_MAX).all(), "the number of a conversation is too high")
    _require(not items["reserved"].any(), "reserved bytes are not 0")
    _check_addresses(items)
    _check_headers(block)


def check_origin(block: EvidenceBlock, linktypes: Collection[int], interfaces: Collection[int]) -> None:
    """Check that all frames of a worker's block have one of these link types and interfaces.

    They are in no conversation: the supervisor numbers conversations.

    Raises:
        MalformedBlockError: one of them has not.
    """
    _require(np.isin(block.items["linktype"], list(linktypes)).all(), "a frame has another link type")
    _require(np.isin(block.items["interface"], list(interfaces)).all(), "a frame is from another interface")
    _require(not block.items["conversation"].any(), "a frame is in a conversation already")
    latest_ns = time.monotonic_ns() + _CLOCK_NS
    _require((block.items["ktime_ns"] <= latest_ns).all(), "a frame is from the future")


def _check_order(first: NDArray[np.uint32], size: NDArray[np.int64], total: int, what: str) -> None:
    """Check that ranges follow each other from 0 to ``total``."""
    ends = np.cumsum(size)
    _require((first == ends - size).all(), f"a {what} is not where the one before it ends")
    _require((ends[-1] if len(ends) else 0) == total, f"the last {what} does not end where its column ends")


def _are_distinct(block: EvidenceBlock) -> bool:
    """Return True if no item has a rule twice; call this after the check of the matches' ranges."""
    rules, item = block.rules.astype(np.int64), block.item_of_match
    pairs = item * len(block.rule_set) + rules  # ascending, if the rules of each item are
    return bool((np.diff(pairs) > 0).all()) or len(np.unique(pairs)) == len(pairs)


def _check_addresses(items: NDArray[np.void]) -> None:
    versions = items["ip_version"]
    _require(np.isin(versions, (0, 4, 6)).all(), "an IP version is neither 4 nor 6")
    for name in ("source", "destination"):
        is_used = items[name].any(axis=1)
        is_long = items[name][:, 4:].any(axis=1)
        _require(not (is_used & (versions == 0)).any(), "a frame without a packet has an address")
        _require(not (is_long & (versions == 4)).any(), "an IPv4 address has more than 4 bytes")


def _check_headers(block: EvidenceBlock) -> None:
    """Compare the record headers with those of the same items; call this after all other checks."""
    items = block.items
    sizes = np.full(len(items), RECORD_HEADER_BYTES, np.uint32)
    starts = np.ascontiguousarray(items["record"])
    found = copy_records(np.ascontiguousarray(block.records), starts, sizes).view(_HEADER_WORD).reshape(-1, 4)
    nothing = np.zeros(len(items), np.uint32)
    expected = write_records(
        np.zeros(1, np.uint8), nothing.astype(np.int64), nothing, items["wirelen"], items["time_ns"]
    ).view(_HEADER_WORD)
    expected = expected.reshape(-1, 4)
    expected[:, 2] = items["caplen"]
    _require((found == expected).all(), "the header of a record does not agree with its item")


def _require(condition: bool | np.bool_, fault: str) -> None:
    if not condition:
        raise MalformedBlockError(fault)
