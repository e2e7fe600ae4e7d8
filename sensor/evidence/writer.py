"""The evidence writer: appends every item to the file of its five minutes.

Runs in the supervisor, and in ``sensor read`` as an `IndexedWriter`. The file
``<evidence directory>/<devid>/YYYYMMDDHHMM.pcap`` is named after the time of its packets, in UTC unless local
time is set, with the minute rounded down to a multiple of five. Frames that match a threat rule go to a file
of their own, ``…-threat.pcap``, which is deleted last; context goes to ``…-context.pcap``, which is deleted
first; and frames with a link type other than Ethernet to ``…-linktype<N>.pcap``. If a foreign or damaged file
has the name, evidence goes to ``…-2.pcap``. An open file has the suffix ``.temp``.

The writer is NOT a buffer: when `EvidenceWriter.write` returns, the kernel has the data. It never waits for
a disk to be flushed.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.conversation import ConversationNote
from sensor.evidence.evidence_file import EvidenceFile, open_file
from sensor.evidence.file_name import WINDOW_S, FileKind, file_stem
from sensor.evidence.pcap import FILE_HEADER_BYTES
from sensor.text import count_of

MAX_OPEN_FILES = 16
"""Maximum number of open files; beyond it the least recently written one is finished.

    A capture file can have packets of any number of windows, in any order.
    """
GRACE_S = 2
"""Time a file stays open after the end of its window, in seconds, for rings that lag behind."""
QUIET_S = 10.0
"""Time without failures, after a failure, until the log reports that writing works again.

    On a nearly full disk, writes fail and succeed alternately.
    """

_NS = 1_000_000_000
_WINDOW_NS = WINDOW_S * _NS
_WINDOWS = range((1 << 32) // WINDOW_S)
"""Windows since the epoch that fit into the 32-bit seconds of a record: until the year 2106."""

log = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """Items of evidence whose records follow each other in one file."""

    path: Path | None
    """The final name of the file; None for items that could not be written."""
    offset: int
    """Offset of the first record."""
    block: EvidenceBlock

    def offsets(self) -> NDArray[np.int64]:
        """Return the offset of each record, and the end of the last one."""
        return self.block.record_offsets(self.offset)


class RowTarget(Protocol):
    """The receiver of the rows that an evidence writer sends to the index."""

    def add(self, name: str, offset: int, block: EvidenceBlock) -> None:
        """Add rows for consecutive records that were written to a file, all of the same UTC day.

        ``name`` is the final name of the file, and ``offset`` that of the first record.
        """

    def note(self, note: ConversationNote) -> None:
        """Keep what is known of a conversation; a later note with its number replaces it."""

    def finish(self, name: str, end: int) -> None:
        """Compare the rows of a file with its end, just before it is given its final name."""


class EvidenceWriter:
    """Appends evidence to the files of a `DeviceDirectory`.

    Creates files with mode 0640, subject to the umask.
    """

    def __init__(self, directory: Path, index: RowTarget, *, local_time: bool = False) -> None:
        self.directory = directory
        self.index = index
        self.written = 0
        """Frames that were written to a file, without context."""
        self.write_failed = 0
        """Frames that could not be written, without context."""
        self.context_written = 0
        """Frames of context that were written to a file."""
        self.context_failed = 0
        """Frames of context that could not be written."""
        self.matches_written: Counter[str] = Counter()
        """Matches in written frames, by rule class."""
        self.matches_failed: Counter[str] = Counter()
        """Matches in frames that could not be written, by rule class."""
        self.replaced = 0
        """Open files that were removed or replaced by somebody else."""
        self.restore: Callable[[], object] = lambda: None
        """Called when a file cannot be created because the directory is gone."""
        self.before_append: Callable[[str, int], object] = lambda _name, _offset: None
        """Called with the final name of a file and an offset before records are written there."""
        self.finished = 0
        """Number of files that were given their final name."""
        self._local_time = local_time
        self._files: dict[str, EvidenceFile] = {}  # by stem, all files of this run: about 0.1 MB per day
        self._open: dict[str, EvidenceFile] = {}  # by stem, least recently written first
        self._failed_at: float | None = None

    def open_bytes(self) -> dict[FileKind, int]:
        """Return the size of the open files of each kind."""
        sizes = dict.fromkeys(FileKind, 0)
        for file in self._open.values():
            sizes[file.kind] += file.end
        return sizes

    @property
    def fails(self) -> bool:
        """True from a failed write until writing works again."""
        return self._failed_at is not None

    @property
    def paths(self) -> list[Path]:
        """The final names of the files written in this run."""
        return sorted(file.path for file in self._files.values() if file.records)

    def write(self, block: EvidenceBlock) -> list[Chunk]:
        """Append items in order, each to the file of its time and link type; return their places.

        Each item is counted as ``written`` or ``write_failed``, or as ``context_written`` or
        ``context_failed``. A full or broken disk raises no error: it is logged once, and every call tries
        again.
        """
        has_failed = False
        chunks: list[Chunk] = []
        for place, group in _by_file(block):
            chunks_before = len(chunks)
            try:
                self._append(place, group, chunks)
            except OSError as error:
                self._report_failure(error)
            written = sum(len(chunk.block) for chunk in chunks[chunks_before:])
            self._count(place.kind, written, len(group) - written)
            if written < len(group):
                has_failed = True
                rest = group.part(written, len(group))
                self.matches_failed.update(rest.class_counts())
                chunks.append(Chunk(None, 0, rest))
        if self._failed_at is not None and not has_failed:
            self._report_success(self._failed_at)
        return chunks

    def _count(self, kind: FileKind, written: int, failed: int) -> None:
        if kind == FileKind.CONTEXT:
            self.context_written += written
            self.context_failed += failed
        else:
            self.written += written
            self.write_failed += failed

    def _append(self, place: _FileKey, group: EvidenceBlock, chunks: list[Chunk]) -> None:
        window, linktype, kind = place
        if window not in _WINDOWS:
            raise OSError(0, "the time of a packet is outside 1970 to 2106, the range of a pcap file")
        window_s = window * WINDOW_S
        stem = file_stem(window_s, linktype, local_time=self._local_time, kind=kind)
        file = self._file(stem, linktype)
        file.until_s = max(file.until_s, window_s + WINDOW_S)
        offset, records_before = file.end or FILE_HEADER_BYTES, file.records
        self.before_append(file.path.name, offset)
        try:
            file.append(group)
        finally:
            written = group.part(0, file.records - records_before)
            if written:
                self.matches_written.update(written.class_counts())
                self.index.add(file.path.name, offset, written)
                chunks.append(Chunk(file.path, offset, written))

    def _file(self, stem: str, linktype: int) -> EvidenceFile:
        """Return the file with this stem, open, and mark it as the most recently used."""
        if stem in self._open:
            self._leave_replaced(stem)
        if stem in self._open and self._open[stem].is_broken:
            self._open.pop(stem).release()
        if stem not in self._open:
            if len(self._open) >= MAX_OPEN_FILES:
                self._finish(next(iter(self._open)))
            try:
                file = self._reopen(stem, linktype)
            except FileNotFoundError:
                self.restore()
                file = self._reopen(stem, linktype)
            self._files[stem] = self._open[stem] = file
        self._open[stem] = self._open.pop(stem)
        return self._open[stem]

    def _reopen(self, stem: str, linktype: int) -> EvidenceFile:
        file = self._files.get(stem)
        return file if file and file.open() else open_file(self.directory, stem, linktype)

    def _leave_replaced(self, stem: str) -> None:
        """Close an open file that was removed or replaced; the next record goes to a new one.

        Raises:
            OSError: this cannot be found out.
        """
        file = self._open[stem]
        if not file.is_in_place:
            self.replaced += 1
            log.error("%s was removed, replaced or cut; what follows goes to a new file", file.temp)
            file.release()
            del self._open[stem], self._files[stem]

    def tick(self, now_ns: int) -> None:
        """Finish the files whose five minutes are over.

        Called several times per second with the wall-clock time, so files are finished without traffic too.
        """
        for stem in list(self._open):
            with suppress(OSError):  # the next write reports it
                self._leave_replaced(stem)
        over_s = now_ns // _NS - GRACE_S
        for stem in [stem for stem, file in self._open.items() if file.until_s <= over_s]:
            self._finish(stem)

    def close(self) -> None:
        """Finish all files."""
        for stem in list(self._open):
            self._finish(stem)

    def _finish(self, stem: str) -> None:
        file = self._open.pop(stem)
        if file.records:
            self.index.finish(file.path.name, file.end)
        try:
            file.finish()
            self.finished += file.records > 0
        except OSError as error:
            log.error(  # noqa: TRY400 - a traceback adds nothing
                "%s was removed or cannot be finished; the next start tries again: %s",
                file.temp,
                error.strerror,
            )

    def _report_failure(self, error: OSError) -> None:
        if self._failed_at is None:
            log.error(
                "evidence cannot be written, frames are counted as write_failed: %s: %s",
                error.filename or self.directory,
                error.strerror,
            )
        self._failed_at = time.monotonic()

    def _report_success(self, failed_at: float) -> None:
        if time.monotonic() - failed_at >= QUIET_S:
            log.warning(
                "evidence can be written again; lost: %s",
                count_of(self.write_failed + self.context_failed, "frame"),
            )
            self._failed_at = None


class _FileKey(NamedTuple):
    """The file that items belong to."""

    window: int
    linktype: int
    kind: FileKind

    @classmethod
    def of(cls, block: EvidenceBlock) -> _FileKey:
        """Return the place of the first item."""
        window = int(block.items["time_ns"][0]) // _WINDOW_NS
        return cls(window, block.linktype, FileKind(int(block.file_kinds[0])))


def _by_file(block: EvidenceBlock) -> Iterator[tuple[_FileKey, EvidenceBlock]]:
    """Divide a block by place; yield each place, in the order in which they first occur."""
    if not len(block):
        return
    windows = block.items["time_ns"] // _WINDOW_NS
    groups = (windows << 16 | block.items["linktype"]) << 2 | block.file_kinds
    if (groups == groups[0]).all():  # the common case
        yield _FileKey.of(block), block
        return
    _, firsts, numbers = np.unique(groups, return_index=True, return_inverse=True)
    for group in np.argsort(firsts).tolist():
        chosen = block.select(numbers == group)
        yield _FileKey.of(chosen), chosen
