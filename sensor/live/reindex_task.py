"""The task of a reindexing process, and the kinds of its answers. Used by that process and the supervisor.

The task is JSON, which the process reads from standard input. Its answers are messages
(`sensor.evidence.message`) in a pipe, in the order of the gaps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from sensor.config.settings import Settings
from sensor.evidence.day_writer import Gap
from sensor.evidence.index_schema import Day

MESSAGE_BYTES = 16 << 20
"""Maximum size of one message."""
PIPE_BYTES = 1 << 20
"""How far the process may be ahead of the supervisor."""
RULES_BYTES = 1 << 20
"""Maximum size of the rules in one message, unless one rule alone is larger."""


class ReindexKind(IntEnum):
    """The meaning of a message."""

    DIGEST = 1
    """The first message: the digest of the rules, as text."""
    RULES = 2
    """Rules as JSON. Matches refer to the rules of all messages of this kind, in their order."""
    ROWS = 3
    """The items in the next records of the current gap, without the records."""
    SKIP = 4
    """The rest of the current gap cannot be read."""
    DONE = 5
    """All gaps are done."""


class Task(NamedTuple):
    """The work of a reindexing process."""

    settings: Settings
    directory: Path
    gaps: Sequence[tuple[Day, Gap]]

    def as_json(self) -> bytes:
        """Return the task as JSON."""
        return json.dumps(
            {
                "settings": self.settings.model_dump(mode="json"),
                "directory": str(self.directory),
                "gaps": [[day.date.isoformat(), *gap] for day, gap in self.gaps],
            }
        ).encode("ascii")

    @classmethod
    def of(cls, data: bytes) -> Task:
        """Return the task that `as_json` encoded."""
        values = json.loads(data)
        gaps = [(Day(date.fromisoformat(day)), Gap(*gap)) for day, *gap in values["gaps"]]
        return cls(Settings.model_validate(values["settings"]), Path(values["directory"]), gaps)
