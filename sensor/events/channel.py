"""The channel from the supervisor to the event sender, and what its messages mean.

Each message is one packet of a socket: a header, the columns of a block, and a text, as
`sensor.evidence.message` defines it. The configuration and the definitions of rules are JSON; the text of a
block is the path of its file. A rule is defined before a block refers to it (`sensor.evidence.rule_numbers`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from sensor.events.eve import EventOptions
from sensor.evidence.block import ITEM
from sensor.evidence.block_codec import RULE
from sensor.evidence.message import MalformedMessageError
from sensor.evidence.writer import Chunk

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
