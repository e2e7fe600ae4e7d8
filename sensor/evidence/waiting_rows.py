"""Rows and notes that wait until a database of the index is written. Runs with the index writer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.conversation import ConversationNote
from sensor.evidence.index_schema import Day, day_of

KEPT_ROWS = 262_144
"""Items and matches that wait while a database cannot be written; beyond it, rows are dropped.

The dropped rows leave a gap. A waiting row takes at most some 100 bytes.
"""
KEPT_NOTES = 65_536
"""Notes of conversations that wait while a database cannot be written; beyond it, the oldest are dropped."""


@dataclass(slots=True)
class WaitingChunk:
    """Consecutive records of a file, all of the same UTC day."""

    day: Day
    name: str
    offset: int
    end: int
    blocks: list[EvidenceBlock] = field(default_factory=list)
    """The items, without their records."""
    items: int = 0
    rows: int = 0
    """Number of items and matches."""

    def add(self, block: EvidenceBlock) -> None:
        """Add items whose records follow at the end."""
        self.blocks.append(block.without_records())
        self.items += len(block)
        self.rows += len(block) + len(block.rules)
        self.end = int(block.record_offsets(self.end)[-1])


class WaitingRows:
    """Rows that wait, in the order in which their records were written, and notes of conversations."""

    def __init__(self) -> None:
        self._chunks: list[WaitingChunk] = []
        self._notes: dict[int, ConversationNote] = {}

    def __bool__(self) -> bool:
        return bool(self._chunks or self._notes)

    def add(self, name: str, offset: int, block: EvidenceBlock) -> int:
        """Add items of one UTC day, whose records are at ``offset`` of a file; return where they end."""
        day = day_of(int(block.items["time_ns"][0]) // 1000)
        last = self._chunks[-1] if self._chunks else None
        if last is None or (last.day, last.name, last.end) != (day, name, offset):
            last = WaitingChunk(day, name, offset, offset)
            self._chunks.append(last)
        last.add(block)
        return last.end

    def note(self, note: ConversationNote) -> None:
        """Keep what is known of a conversation, instead of what was known before."""
        self._notes.pop(note.conversation, None)
        self._notes[note.conversation] = note

    @property
    def rows(self) -> int:
        """The number of items and matches."""
        return sum(chunk.rows for chunk in self._chunks)

    @property
    def items(self) -> int:
        """The number of items."""
        return sum(chunk.items for chunk in self._chunks)

    @property
    def files(self) -> set[str]:
        """The files of the records."""
        return {chunk.name for chunk in self._chunks}

    def chunks_by_day(self) -> dict[Day, list[WaitingChunk]]:
        """Return the rows of each day."""
        days: dict[Day, list[WaitingChunk]] = {}
        for chunk in self._chunks:
            days.setdefault(chunk.day, []).append(chunk)
        return days

    def notes_by_day(self) -> dict[Day, list[ConversationNote]]:
        """Return the notes of each day."""
        days: dict[Day, list[ConversationNote]] = {}
        for note in self._notes.values():
            days.setdefault(day_of(note.conversation), []).append(note)
        return days

    def drop_chunks_of(self, day: Day) -> None:
        """Remove the rows of a day."""
        self._chunks = [chunk for chunk in self._chunks if chunk.day != day]

    def drop_notes_of(self, day: Day) -> None:
        """Remove the notes of a day."""
        self._notes = {number: note for number, note in self._notes.items() if day_of(number) != day}

    def drop_files(self, names: Collection[str]) -> None:
        """Remove the rows of files."""
        self._chunks = [chunk for chunk in self._chunks if chunk.name not in names]

    def drop_excess(self) -> bool:
        """Remove what is too much to wait; return True if rows were removed."""
        for number in list(self._notes)[:-KEPT_NOTES]:
            del self._notes[number]
        has_excess = self.rows >= KEPT_ROWS
        if has_excess:
            self._chunks = []
        return has_excess

    def first_offset(self, name: str, day: Day) -> int | None:
        """Return where the first records of a file and a day begin that wait; None if none do."""
        return next((one.offset for one in self._chunks if one.name == name and one.day == day), None)

    def clear(self) -> None:
        """Remove everything."""
        self._chunks, self._notes = [], {}
