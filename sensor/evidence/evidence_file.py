"""One evidence file: its name, and its life from the first record to the finished file.

Runs in the process that writes evidence. A file covers five minutes of packet time. It is called
``<stem>.pcap.temp`` while it is open and ``<stem>.pcap`` once it is finished, and it can be taken up
again: after a restart, or for a late packet. There is no buffer in this process: what `append` has
written survives the death of the process, though not a power cut before the kernel wrote it to disk.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

from sensor.errors import EvidenceError
from sensor.evidence.pcap import RecordReader, encode, file_header
from sensor.model import Evidence, LinkType

WINDOW_S = 300
"""Packet time that one file covers."""

EVIDENCE_NAME = re.compile(
    r"(?P<minute>\d{12})(?:-linktype(?P<linktype>\d+))?(?:-\d+)?\.pcap(?P<temp>\.temp)?", re.ASCII
)

log = logging.getLogger(__name__)


def file_stem(window_s: int, linktype: int, *, local_time: bool) -> str:
    """Return the name, without its suffix, of the file for this window (a multiple of 300 s since the epoch).

    In local time the two hours around the end of summer time share their names, and so their files.
    """
    start = datetime.fromtimestamp(window_s, tz=None if local_time else UTC)
    stem = f"{start:%Y%m%d%H}{start.minute // 5 * 5:02}"
    return stem if linktype == LinkType.ETHERNET else f"{stem}-linktype{linktype}"


def open_evidence(path: Path) -> BinaryIO:
    """Open an evidence file to read it, by its final name, finished or not. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return path.open("rb")
    with contextlib.suppress(FileNotFoundError):
        return path.with_name(f"{path.name}.temp").open("rb")
    return path.open("rb")  # it was finished in between, or it is gone


@contextlib.contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Look into a device's directory: one that is not there is empty, one that cannot be read an error."""
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        raise EvidenceError(f"{directory} cannot be read: {error.strerror}") from error


def evidence_sizes(directory: Path) -> dict[str, tuple[int, bool]]:
    """Return the size of each evidence file by its final name, and whether it is still open.

    Goes by the names; nothing where there is no directory. Raises `EvidenceError` where it cannot be read.
    """
    sizes: dict[str, tuple[int, bool]] = {}
    with reading(directory), os.scandir(directory) as entries:
        for entry in entries:
            if EVIDENCE_NAME.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):  # renamed at this moment, or deleted
                    size = entry.stat(follow_symlinks=False).st_size
                    sizes[entry.name.removesuffix(".temp")] = size, entry.name.endswith(".temp")
    return sizes


class EvidenceFile:
    """A file that one writer appends to; closed until `open` says that it can be."""

    def __init__(self, path: Path, linktype: int) -> None:
        self.path = path
        """Its name when it is finished."""
        self.temp = path.with_name(f"{path.name}.temp")
        self.end = 0
        """Bytes up to the end of the last whole record."""
        self.records = 0
        self.cut = 0
        """Bytes of a torn record that were found, and cut off, behind the last whole one."""
        self.until_s = 0
        """End of the last window that was written to it, seconds since the epoch."""
        self._linktype = linktype
        self._descriptor = -1
        self._torn = False

    def open(self) -> bool:
        """Create the file, or take up the one that is there, without what is torn at its end.

        Returns False, with everything left as it is, when the name is taken by something that is not
        an evidence file of this link type, is damaged, or exists both open and finished. Raises OSError.
        """
        present = [path for path in (self.temp, self.path) if os.path.lexists(path)]
        if not present:
            self._descriptor = _open(self.temp, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            self.end = self.records = 0
            return True
        if len(present) > 1 or not self._check(present[0]):
            return False
        if present[0] == self.path:
            self.path.rename(self.temp)
        self._descriptor = _open(self.temp, os.O_RDWR)
        if self.cut:
            os.ftruncate(self._descriptor, self.end)
        return True

    def _check(self, path: Path) -> bool:
        """Find the last whole record, reading the file only where it is not as this run left it."""
        status = path.lstat()
        if self.records and status.st_size == self.end:
            self.cut = 0
            return True
        if not stat.S_ISREG(status.st_mode):
            return False
        try:
            with path.open("rb", buffering=1 << 20) as file:
                reader = RecordReader(file)
                self.records = sum(1 for _ in reader)
        except EvidenceError:
            return False
        self.end = reader.end
        self.cut = status.st_size - reader.end
        return reader.linktype in (self._linktype, None)

    @property
    def is_removed(self) -> bool:
        """Whether somebody removed the open file: what is written now would be lost."""
        return os.fstat(self._descriptor).st_nlink == 0

    def append(self, items: Sequence[Evidence]) -> None:
        """Write a record for each piece behind the last one.

        Raises OSError, naming the file, when they do not all fit: ``records`` has then grown by those
        that did, and what is behind them is cut off. The next call starts there.
        """
        header = b"" if self.end else file_header(self._linktype)
        records, ends = encode(items)
        data = memoryview(header + records if header else records)
        done = 0
        try:
            if self._torn:
                self._cut_back()
            self._torn = True
            while done < len(data):
                # At a position of our own, so that what a failed write left behind is overwritten.
                done += os.pwrite(self._descriptor, data[done:], self.end + done)
            self._torn = False
        except OSError as error:
            error.filename = str(self.temp)
            raise
        finally:
            whole = bisect_right(ends, done - len(header))
            if whole:
                self.end += len(header) + ends[whole - 1]
                self.records += whole
            if self._torn:
                with contextlib.suppress(OSError):
                    self._cut_back()

    def _cut_back(self) -> None:
        os.ftruncate(self._descriptor, self.end)
        self._torn = False

    def finish(self) -> None:
        """Close the file and give it its final name; without a record in it, remove it.

        Raises OSError, with the file closed but still called ``.temp``, for instance when something
        has taken the final name in the meantime.
        """
        try:
            if self._torn:
                self._cut_back()
            if not self.records:
                self.temp.unlink()
            elif os.path.lexists(self.path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path))
            else:
                self.temp.rename(self.path)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1


def open_file(directory: Path, stem: str, linktype: int) -> EvidenceFile:
    """Open the evidence file of this stem, or, where a foreign file has the name, ``<stem>-2`` and so on.

    Raises OSError.
    """
    for name in chain([stem], (f"{stem}-{number}" for number in count(2))):
        file = EvidenceFile(directory / f"{name}.pcap", linktype)
        if file.open():
            if file.cut:
                log.warning("%s: %d bytes of a torn record cut off", file.path, file.cut)
            return file
        log.warning(
            "%s is foreign or damaged: left as it is, evidence goes to another name beside it", file.path
        )
    raise AssertionError("count() never ends")


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode=0o640)
