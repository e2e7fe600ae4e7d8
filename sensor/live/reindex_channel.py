"""The channel between the indexer and the reindexer, and what its messages mean. Used by both.

The indexer sends the gaps through a socket, and receives answers there in the order of the gaps. All are
messages of `sensor.evidence.message`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from enum import IntEnum

from sensor.evidence.day_writer import Gap
from sensor.evidence.index_schema import Day

MESSAGE_BYTES = 16 << 20
"""Maximum size of one answer."""
GAPS_BYTES = 256 << 20
"""Maximum size of the gaps; a year of files with some gaps in each has a fraction of it."""
RULES_BYTES = 1 << 20
"""Maximum size of the rules in one message, unless one rule alone is larger."""


class ReindexKind(IntEnum):
    """The meaning of a message."""

    GAPS = 1
    """To the reindexer: all gaps as JSON."""
    DIGEST = 2
    """The first answer: the digest of the rules, as text."""
    RULES = 3
    """Rules as JSON. Matches refer to the rules of all messages of this kind, in their order."""
    ROWS = 4
    """The items in the next records of the current gap, without the records."""
    SKIP = 5
    """The rest of the current gap cannot be read."""
    DONE = 6
    """All gaps are done."""


def encode_gaps(gaps: Sequence[tuple[Day, Gap]]) -> bytes:
    """Return gaps as JSON."""
    return json.dumps([[day.date.isoformat(), *gap] for day, gap in gaps]).encode("ascii")


def decode_gaps(data: bytes) -> list[tuple[Day, Gap]]:
    """Return the gaps that `encode_gaps` encoded."""
    return [(Day(date.fromisoformat(day)), Gap(*gap)) for day, *gap in json.loads(data)]
