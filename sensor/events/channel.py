"""The channel from the supervisor to the event sender: what its messages mean, and how rules are numbered.

Each message is one packet of a socket: a header, the columns of a block, and a text, as
`sensor.evidence.message` defines it. The configuration and the definitions of rules are JSON; the text of a
block is the path of its file. A rule is defined before a block refers to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.events.eve import EventOptions
from sensor.evidence.block import ITEM, EvidenceBlock
from sensor.evidence.block_codec import RULE
from sensor.evidence.message import MalformedMessageError, ReceivedMessage
from sensor.evidence.rule_codec import decode_rules, encode_in_parts
from sensor.evidence.writer import Chunk
from sensor.model import Rule

MESSAGE_BYTES = 1 << 20
"""Maximum size of one message."""
_PART_BYTES, _PART_ITEMS = 60_000, 256


class EventKind(IntEnum):
    """The meaning of a message."""

    CONFIG = 1
    """The first message: a `SenderConfig` as JSON."""
    RULES = 2
    """Definitions of rules as JSON. ``number`` is that of the first; with 0, all others are forgotten."""
    BLOCK = 3
    """A chunk of evidence. ``number`` is the offset of its first record."""
    REOPEN = 4
    """Close and open all files."""


class SenderConfig(NamedTuple):
    """The configuration of the event sender."""

    urls: tuple[str, ...]
    options: EventOptions
    queue_bytes: int
    profile: str
    """Name of the profile, whose definition of HTTP decides where a rule matches."""

    def as_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(self._asdict() | {"options": self.options._asdict()}).encode("ascii")

    @classmethod
    def of(cls, data: bytes) -> SenderConfig:
        """Return the configuration that `as_json` encoded.

        Raises:
            MalformedMessageError: this is something else.
        """
        try:
            values = json.loads(data)
            config = cls(
                urls=tuple(values["urls"]),
                options=EventOptions(**values["options"]),
                queue_bytes=values["queue_bytes"],
                profile=values["profile"],
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise MalformedMessageError("a configuration that cannot be read") from error
        is_sound = (
            all(isinstance(url, str) for url in config.urls)
            and isinstance(config.options.host, str)
            and isinstance(config.options.devid, int)
            and isinstance(config.options.payload, int)
            and isinstance(config.options.url, str | None)
            and isinstance(config.queue_bytes, int)
            and isinstance(config.profile, str)
        )
        if not is_sound:
            raise MalformedMessageError("a configuration with a field of another type")
        return config


class RuleNumbers:
    """The sending side of the rules: numbers them in the order in which they are first used."""

    def __init__(self) -> None:
        self._rule_set: Sequence[Rule] = ()
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)  # by position in the rule set; -1: none yet
        self._count = 0

    def definitions(self, block: EvidenceBlock) -> Iterator[tuple[int, bytes]]:
        """Yield the rules that the receiver has to know first, as JSON, each part with its first number.

        When the caller asks for the next part, it has sent the last one.
        """
        if block.rule_set is not self._rule_set:
            self._rule_set, self._count = block.rule_set, 0
            self._numbers = np.full(len(block.rule_set), -1, np.int64)
        used = np.unique(block.rules[self._numbers[block.rules] < 0]).tolist()
        for rules, text in encode_in_parts([self._rule_set[position] for position in used], _PART_BYTES):
            yield self._count, text
            sent, used = used[:rules], used[rules:]
            self._numbers[sent] = np.arange(self._count, self._count + rules)
            self._count += rules

    def numbered(self, block: EvidenceBlock) -> EvidenceBlock:
        """Return a block whose matches refer to the numbers; all of its rules must be defined."""
        return replace(block, rules=self._numbers[block.rules].astype(np.uint32))


class RuleTable:
    """The receiving side of the rules."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def define(self, message: ReceivedMessage) -> None:
        """Add the rules in a message of kind `EventKind.RULES`.

        Raises:
            MalformedMessageError: they are not rules, or not those that come next.
        """
        rules = decode_rules(message.text)
        if message.header.number == 0:
            self.rules = []
        if message.header.number != len(self.rules):
            raise MalformedMessageError(f"rule {message.header.number} after rule {len(self.rules)}")
        self.rules = [*self.rules, *rules]


def parts_of(chunk: Chunk) -> Iterator[Chunk]:
    """Divide a chunk into parts that fit into a message."""
    path, start, block = chunk
    offsets = block.record_offsets(start)
    matches = np.append(0, np.cumsum(block.items["matches"], dtype=np.int64))
    sizes = offsets + matches * RULE.itemsize + np.arange(len(offsets)) * ITEM.itemsize
    first = 0
    while first < len(block):
        end = int(np.searchsorted(sizes, sizes[first] + _PART_BYTES))
        end = min(end, first + _PART_ITEMS, len(block))
        yield Chunk(path, int(offsets[first]), block.part(first, end))
        first = end
