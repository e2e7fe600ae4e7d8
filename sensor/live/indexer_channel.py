"""The channel between the supervisor and the indexer, and what its messages mean. Used by both.

Each message is one packet of a socket. To the indexer it is a header, the columns of a block without its
records, and a text (`sensor.evidence.message`). Rules are defined before rows refer to them
(`sensor.evidence.rule_numbers`). The indexer answers with reports of fixed size.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sensor.evidence.block import ITEM, EvidenceBlock
from sensor.evidence.block_codec import RULE
from sensor.evidence.message import MalformedMessageError
from sensor.evidence.rule_text import http_text, parse_http
from sensor.model import Context
from sensor.rules.engine.http_payload import HttpReading

MESSAGE_BYTES = 1 << 20
"""Maximum size of one message to the indexer."""
CHANNEL_BYTES = 16 << 20
"""Size of the channel; while it is full, rows are left out, and added later from the files."""
_PART_BYTES = 60_000
"""Size of the columns in one message, unless one item alone has more. The kernel finds memory for messages of
this size even if its memory is fragmented."""


class IndexerKind(IntEnum):
    """The meaning of a message to the indexer."""

    CONFIG = 1
    """The first message: an `IndexerConfig` as JSON."""
    SOURCE = 2
    """The origin of the rules of all rows that follow: a `RuleSource` as JSON."""
    RULES = 3
    """Definitions of rules as JSON. ``number`` is that of the first; with 0, all others are forgotten."""
    ROWS = 4
    """Items in records of a file. The text is its final name, ``number`` the offset of the first record."""
    FINISHED = 5
    """A file is given its final name, the text; ``number`` is its size."""
    DELETED = 6
    """Files were deleted; the text has a name per line."""
    MISSED = 7
    """Messages are missing before this one, because the channel was full."""
    REINDEXER = 8
    """The reindexer with this number was started; the message carries its socket, or nothing if it failed."""
    CONVERSATION = 9
    """The text is what is known of a conversation, in the format of `sensor.evidence.conversation_codec`."""


class IndexerConfig(NamedTuple):
    """The configuration of the indexer."""

    directory: Path
    """The directory of the device."""
    interfaces: dict[int, str]
    """Names of the interfaces, by index."""
    profile: str
    """Name of the profile, whose definition of HTTP the reindexer matches with."""
    context: Context = "threat"
    context_seconds: int = 60
    """The settings with which conversations are kept."""

    def as_json(self) -> bytes:
        """Return it as JSON."""
        values: dict[str, Any] = {
            "directory": str(self.directory),
            "interfaces": list(self.interfaces.items()),
        }
        values |= {"profile": self.profile}
        values |= {"context": self.context, "context_seconds": self.context_seconds}
        return json.dumps(values).encode("ascii")

    @classmethod
    def of(cls, data: bytes) -> IndexerConfig:
        """Return the configuration that `as_json` encoded."""
        values = json.loads(data)
        context = values["context"], values["context_seconds"]
        return cls(Path(values["directory"]), dict(values["interfaces"]), values["profile"], *context)


class RuleSource(NamedTuple):
    """The origin of all rules of a block."""

    digest: str
    http: HttpReading
    """The definition of HTTP that they were matched with."""

    def as_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps([self.digest, http_text(self.http)]).encode("ascii")

    @classmethod
    def of(cls, data: bytes) -> RuleSource:
        """Return the source that `as_json` encoded."""
        digest, http = json.loads(data)
        return cls(digest, parse_http(http))


class IndexerReport(NamedTuple):
    """The figures of the indexer, and its wish for a reindexer."""

    messages: int = 0
    """Messages received."""
    received: int = 0
    """Rows received."""
    rows: int = 0
    """Rows inserted, also those of the reindexer."""
    waiting: int = 0
    """Received rows that are not inserted yet."""
    failures: int = 0
    """Changes of the index that failed."""
    changed_s: float | None = None
    """Time of the last change, seconds since the epoch; None if there was none."""
    is_behind: bool = True
    """True if there may be gaps."""
    is_reindexing: bool = False
    """True while gaps are looked for or filled."""
    reindexer: int = 0
    """Number of the reindexer it wants; 0: none. A new number means a new process."""
    remaining_bytes: int = 0
    """Bytes of evidence files that are known to have no rows yet."""
    done_bytes: int = 0
    """Bytes of evidence files that were given rows again."""

    def pack(self) -> bytes:
        """Return the report as bytes."""
        changed_s = math.nan if self.changed_s is None else self.changed_s
        return _REPORT.pack(*self._replace(changed_s=changed_s))

    @classmethod
    def of(cls, data: bytes) -> IndexerReport:
        """Return the report that `pack` packed.

        Raises:
            MalformedMessageError: this is something else.
        """
        if len(data) != REPORT_BYTES:
            raise MalformedMessageError(f"a report of {len(data)} bytes")
        report = cls._make(_REPORT.unpack(data))
        if math.isinf(report.changed_s or 0):
            raise MalformedMessageError("a report with a time that is infinite")
        return report._replace(changed_s=None if math.isnan(report.changed_s or 0) else report.changed_s)


_REPORT = struct.Struct("=QQQQQd??IQQ")
REPORT_BYTES = _REPORT.size


def parts_of_rows(offset: int, block: EvidenceBlock) -> Iterator[tuple[int, EvidenceBlock]]:
    """Divide a block whose first record is at ``offset`` into parts that fit into a message.

    Each part comes with the offset of its first record.
    """
    if block.items.nbytes + block.rules.nbytes <= _PART_BYTES:  # the common case
        yield offset, block
        return
    offsets = block.record_offsets(offset)
    matches = np.append(0, np.cumsum(block.items["matches"], dtype=np.int64))
    sizes = matches * RULE.itemsize + np.arange(len(offsets)) * ITEM.itemsize
    first = 0
    while first < len(block):
        end = max(first + 1, int(np.searchsorted(sizes, sizes[first] + _PART_BYTES, "right")) - 1)
        yield int(offsets[first]), block.part(first, end)
        first = end
