"""Messages between processes of different rights: a header of fixed size, the columns of a block, and a text.

Used by the supervisor, the event sender, the indexer and the reindexer. The receiver checks every size before
it reads the rest, so a message can be malformed, but not harmful.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sensor.evidence.block import ITEM, EvidenceBlock
from sensor.evidence.block_codec import (
    RULE,
    MalformedBlockError,
    block_bytes,
    block_columns,
    decode_block,
)
from sensor.evidence.pcap import RECORD_HEADER_BYTES
from sensor.model import Rule

VERSION = 1
_HEADER = struct.Struct("<HHIIII4xQ")
HEADER_BYTES = _HEADER.size


class MalformedMessageError(Exception):
    """A process has sent something that a sound process does not send."""


class Header(NamedTuple):
    """The sizes of what follows, and one number."""

    kind: int
    """The meaning of the message, as its channel defines it."""
    version: int = VERSION
    items: int = 0
    rules: int = 0
    records_bytes: int = 0
    text_bytes: int = 0
    number: int = 0

    @property
    def body_bytes(self) -> int:
        """The size of all that follows the header."""
        return block_bytes(self.items, self.rules, self.records_bytes) + self.text_bytes


def pack(
    kind: int,
    text: bytes = b"",
    block: EvidenceBlock | None = None,
    number: int = 0,
    *,
    with_records: bool = True,
) -> list[bytes | memoryview]:
    """Return the parts of a message, in the order in which they are sent."""
    if block is None:
        return [_HEADER.pack(kind, VERSION, 0, 0, 0, len(text), number), text]
    items, rules, records = block_columns(block)
    columns = [items, rules, *([records] if with_records else [])]
    sizes = (len(block), len(block.rules), len(records) if with_records else 0)
    return [_HEADER.pack(kind, VERSION, *sizes, len(text), number), *columns, text]


def unpack_header(data: bytes | bytearray | memoryview, most_bytes: int) -> Header:
    """Return the header at the start of a message.

    Raises:
        MalformedMessageError: the message is too short, of another version, or longer than ``most_bytes``.
    """
    if len(data) < HEADER_BYTES:
        raise MalformedMessageError(f"a message of {len(data)} bytes")
    header = Header._make(_HEADER.unpack_from(data))
    if header.version != VERSION:
        raise MalformedMessageError(f"a message of version {header.version}")
    if HEADER_BYTES + header.body_bytes > most_bytes:
        raise MalformedMessageError(f"a message that would have {HEADER_BYTES + header.body_bytes} bytes")
    return header


class ReceivedMessage(NamedTuple):
    """A received message."""

    header: Header
    body: memoryview
    """All bytes after the header; nobody else can change them."""

    @classmethod
    def of(cls, data: bytes, most_bytes: int) -> ReceivedMessage:
        """Return the message in ``data``.

        Raises:
            MalformedMessageError: as `unpack_header`, or the size is not that of the header.
        """
        header = unpack_header(data, most_bytes)
        body = memoryview(data)[HEADER_BYTES:]
        if len(body) != header.body_bytes:
            raise MalformedMessageError(f"{len(body)} bytes instead of {header.body_bytes}")
        return cls(header, body)

    @property
    def text(self) -> bytes:
        """The text, as it was sent."""
        return bytes(self.body[len(self.body) - self.header.text_bytes :])

    def frame_records_bytes(self) -> int:
        """Return the size of the records that belong to the items; the items have not been checked yet."""
        caplen = np.frombuffer(self.body, ITEM, self.header.items)["caplen"]
        return int(caplen.sum(dtype=np.uint64)) + len(caplen) * RECORD_HEADER_BYTES

    def block(self, rule_set: Sequence[Rule], records: bytes | None = None) -> EvidenceBlock:
        """Return the block, whose matches refer to ``rule_set``.

        ``records`` are the records of a block that was sent without them.

        Raises:
            MalformedMessageError: the block is malformed.
        """
        header = self.header
        data = np.frombuffer(self.body, np.uint8)[: header.body_bytes - header.text_bytes]
        if records is not None:
            data = np.concatenate([data, np.frombuffer(records, np.uint8)])
        records_bytes = header.records_bytes + len(records or b"")
        try:
            return decode_block(data, header.items, header.rules, records_bytes, rule_set)
        except MalformedBlockError as error:
            raise MalformedMessageError(str(error)) from error

    def rows(self, rule_set: Sequence[Rule]) -> EvidenceBlock:
        """Return a block that was sent without its records, whose matches refer to ``rule_set``.

        The sender has checked it: it must be a process with more rights.

        Raises:
            MalformedMessageError: it has records, or its columns do not belong together.
        """
        header = self.header
        if header.records_bytes:
            raise MalformedMessageError(f"{header.records_bytes} bytes of records")
        items = np.frombuffer(self.body, ITEM, header.items)
        rules = np.frombuffer(self.body, RULE, header.rules, items.nbytes)
        if items["matches"].sum() != len(rules) or (rules >= len(rule_set)).any():
            raise MalformedMessageError("matches without an item or a rule")
        return EvidenceBlock(items, rules, np.empty(0, np.uint8), rule_set)
