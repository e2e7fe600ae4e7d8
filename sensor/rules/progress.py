"""The progress of compiling a rule set, as a record of fixed shape.

The process that compiles writes it, and its parent reads it: to show it, and to name the rule that is to
blame if the process does not survive.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

_RECORD = struct.Struct("<7Q")
RECORD_BYTES = _RECORD.size
MOST_RULE_ID = 999_999_999


class Phase(IntEnum):
    """The steps to a compiled rule set."""

    START = 0
    READ = 1
    """The rule files are parsed as JSON."""
    CHECK = 2
    """Rule by rule: the fields, and the expression by itself."""
    COMPILE = 3
    """All rules together."""
    PROVE = 4
    """Rule by rule: the engine has to find its witness texts."""
    PLAN = 5
    """Rule by rule: what the kernel has to pass on."""
    FINISH = 6
    """The tables for the kernel, and the result."""


class Progress(NamedTuple):
    """The work that is under way."""

    phase: Phase = Phase.START
    number: int = 0
    """The rule is this one of ``total``, from 1."""
    total: int = 0
    file: int = 0
    """The rule's class, by its position in `RULE_CLASSES`."""
    rule_id: int = 0
    """0: no particular rule. In `Phase.COMPILE` it is the largest one."""
    line: int = 0
    memory_kib: int = 0
    """Memory in use when this work began."""

    def pack(self) -> bytes:
        """Return the record."""
        return _RECORD.pack(*self)

    @classmethod
    def unpack(cls, record: bytes) -> Progress:
        """Return the progress; a record that makes no sense counts as none."""
        phase, *numbers = _RECORD.unpack(record)
        if phase > max(Phase) or numbers[2] > 4 or numbers[3] > MOST_RULE_ID or numbers[1] > 1 << 32:
            return cls()
        return cls(Phase(phase), *numbers)

    @property
    def words(self) -> str:
        """The progress in words, such as "rules: 12 of 535 checked"."""
        match self.phase:
            case Phase.START | Phase.READ:
                return "rules: reading the files"
            case Phase.CHECK:
                return f"rules: {self.number:,} of {self.total:,} checked"
            case Phase.COMPILE:
                return f"rules: compiling {self.total:,} together"
            case Phase.PROVE:
                return f"rules: {self.number:,} of {self.total:,} proven"
        return f"rules: planning {self.total:,} for the kernel"


Watch = Callable[[Progress], None]
"""Called when work begins."""


def unwatched(_progress: Progress) -> None:
    """Note nothing."""
