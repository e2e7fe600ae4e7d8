"""The one writer of evidence: every piece into the file of its five minutes. Runs in `sensor run` and `read`.

``<evidence directory>/<devid>/YYYYMMDDHHMM.pcap`` is named by the packet's own time, the minute rounded
down to a multiple of five. Beside it may stand ``…-linktype<N>.pcap`` with frames of another link type,
and ``…-2.pcap`` with what could not go to a file whose name a foreign or damaged one has. While a file
is open it carries the suffix ``.temp``.

The writer is NOT a buffer (what `EvidenceWriter.write` was given is with the kernel when it returns), and
it never waits for a disk to be flushed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from sensor.errors import EvidenceError
from sensor.evidence.day_writer import Gap
from sensor.evidence.evidence_file import WINDOW_S, EvidenceFile, file_stem, open_file
from sensor.evidence.index_schema import Day
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.pcap import FILE_HEADER_BYTES, RECORD_HEADER_BYTES, SNAPLEN
from sensor.evidence.reconcile import reconcile
from sensor.evidence.recovery import Recovery, recover
from sensor.model import Evidence, rule_classes

MAX_OPEN_FILES = 16
"""A capture file may touch any number of windows in any order; the one least recently written is finished."""
GRACE_S = 2
"""How long after its end a window stays open for rings that lag."""
QUIET_S = 10.0
"""How long writing has to go well after a failure until the log says so: a nearly full disk alternates."""

_NS = 1_000_000_000
_WINDOW_NS = WINDOW_S * _NS
_WINDOWS = range((1 << 32) // WINDOW_S)
"""Windows since the epoch that fit a record's 32-bit seconds: up to the year 2106."""

log = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """Pieces whose records stand in a file one behind the other."""

    path: Path | None
    """The file, by its final name; None for pieces that could not be written."""
    offset: int
    """Where the record of the first one starts."""
    items: Sequence[Evidence]

    def offsets(self) -> list[int]:
        """Return where each record starts, and where the last one ends."""
        sizes = (RECORD_HEADER_BYTES + min(item.caplen, SNAPLEN) for item in self.items)
        return list(accumulate(sizes, initial=self.offset))


class EvidenceWriter:
    """Appends evidence under ``directory/devid``, alone: a lock keeps a second writer out.

    Creates the directory (0750; files are 0640, each less what the umask takes). Raises `EvidenceError`
    when it cannot be written, or has a writer already.
    """

    def __init__(
        self,
        directory: Path,
        devid: int,
        *,
        local_time: bool = False,
        interface_name: Callable[[int], str] = str,
    ) -> None:
        self.directory = directory / str(devid)
        self.written = 0
        """Frames that are in a file, whole."""
        self.write_failed = 0
        """Frames that are in none."""
        self.matches_written: Counter[str] = Counter()
        """Matches of the frames that are in a file, by the class of their rules."""
        self.matches_failed: Counter[str] = Counter()
        """And of those that are in none."""
        self.finished = 0
        """Files that were given their final name."""
        self._local_time = local_time
        self._files: dict[str, EvidenceFile] = {}  # by stem, all of this run: some 0.1 MB a day
        self._open: dict[str, EvidenceFile] = {}  # by stem, least recently written first
        self._failed_at: float | None = None
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self.directory.mkdir(mode=0o750, exist_ok=True)
            self._lock = _take_lock(self.directory / ".lock")
            self.recovered: list[Recovery] = recover(self.directory)
            """What the last run left open, for the caller to log, a line each."""
            self.index = IndexWriter(self.directory, interface_name)
        except OSError as error:
            raise EvidenceError(
                f"cannot write evidence to {self.directory}: {error.strerror};"
                " make it writable, or name another directory with --evidence"
            ) from error

    @property
    def paths(self) -> list[Path]:
        """Files that were written in this run, by their final names."""
        return sorted(file.path for file in self._files.values() if file.records)

    def reconcile(self) -> list[tuple[Day, Gap]]:
        """Compare the index with the files; return what has no rows yet, for `sensor.reindex` to fill."""
        self.index.commit()
        return reconcile(self.index, {file.path.name for file in self._open.values()})

    def write(self, items: Sequence[Evidence]) -> list[Chunk]:
        """Append the pieces, in their order, each to the file of its time and link type; say where they are.

        Each ends in ``written`` or ``write_failed``; a disk that is full or broken raises nothing, costs a
        line in the log, and is tried again with every call.
        """
        failed_before = self.write_failed
        chunks: list[Chunk] = []
        groups: dict[tuple[int, int], list[Evidence]] = {}
        for item in items:
            groups.setdefault((item.timestamp_ns // _WINDOW_NS, item.linktype), []).append(item)
        for (window, linktype), group in groups.items():
            written_before = self.written
            try:
                self._append(window, linktype, group, chunks)
            except OSError as error:
                self._report_failure(error)
            written = self.written - written_before
            self.write_failed += len(group) - written
            if written < len(group):
                self.matches_failed.update(rule_classes(group[written:]))
                chunks.append(Chunk(None, 0, group[written:]))
        if self._failed_at is not None and self.write_failed == failed_before:
            self._report_success(self._failed_at)
        return chunks

    def _append(self, window: int, linktype: int, group: Sequence[Evidence], chunks: list[Chunk]) -> None:
        if window not in _WINDOWS:
            raise OSError(0, "a packet's time is outside 1970 to 2106, which pcap cannot hold")
        window_s = window * WINDOW_S
        file = self._take(file_stem(window_s, linktype, local_time=self._local_time), linktype)
        file.until_s = max(file.until_s, window_s + WINDOW_S)
        offset, records_before = file.end or FILE_HEADER_BYTES, file.records
        try:
            file.append(group)
        finally:
            written = file.records - records_before
            self.written += written
            self.matches_written.update(rule_classes(group[:written]))
            if written:
                self.index.add(file.path.name, linktype, offset, file.end, group[:written])
                chunks.append(Chunk(file.path, offset, group[:written]))

    def _take(self, stem: str, linktype: int) -> EvidenceFile:
        """Return the open file of this stem, the most recently used from now on."""
        if stem in self._open and self._open[stem].is_removed:
            self._finish(stem)
        if stem not in self._open:
            if len(self._open) >= MAX_OPEN_FILES:
                self._finish(next(iter(self._open)))
            file = self._files.get(stem)
            if file is None or not file.open():
                file = open_file(self.directory, stem, linktype)
            self._files[stem] = self._open[stem] = file
        self._open[stem] = self._open.pop(stem)
        return self._open[stem]

    def tick(self, now_ns: int) -> None:
        """Finish the files whose five minutes are over, by the wall clock and whether packets come or not.

        Brings the index up to the last packet, too: to be called several times a second.
        """
        self.index.commit()
        over_s = now_ns // _NS - GRACE_S
        for stem in [stem for stem, file in self._open.items() if file.until_s <= over_s]:
            self._finish(stem)

    def close(self) -> None:
        """Finish all files and let another writer have the directory."""
        for stem in list(self._open):
            self._finish(stem)
        self.index.close()
        os.close(self._lock)

    def _finish(self, stem: str) -> None:
        file = self._open.pop(stem)
        try:
            file.finish()
            self.finished += file.records > 0
        except OSError as error:
            log.error(  # noqa: TRY400 - the line says it all
                "%s was removed, or cannot be finished (the next start tries again): %s",
                file.temp,
                error.strerror,
            )

    def _report_failure(self, error: OSError) -> None:
        if self._failed_at is None:
            log.error(
                "evidence cannot be written, its frames count as write_failed: %s: %s",
                error.filename or self.directory,
                error.strerror,
            )
        self._failed_at = time.monotonic()

    def _report_success(self, failed_at: float) -> None:
        if time.monotonic() - failed_at >= QUIET_S:
            log.warning("evidence is written again; %d frames of this run were not", self.write_failed)
            self._failed_at = None


def writing_process(directory: Path, devid: int) -> int | None:
    """Find the process that writes evidence under ``directory/devid`` now; None where there is none."""
    try:
        with (directory / str(devid) / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int((directory / str(devid) / ".lock").read_text())
    except FileNotFoundError:
        return None
    return None


def _take_lock(path: Path) -> int:
    """Return the descriptor that holds the lock; its file names the process, for whoever comes second."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode=0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode().strip()
        os.close(descriptor)
        raise EvidenceError(
            f"process {holder} already writes evidence to {path.parent};"
            " stop it, or give this one another --devid or --evidence"
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
