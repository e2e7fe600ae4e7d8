"""One evidence file: its name, and writing it. Runs in the process that writes evidence.

A file covers five minutes of packet time. It is called ``<stem>.pcap.temp`` while it is open and
``<stem>.pcap`` once it is finished. A finished file is opened again after a restart or for a late packet.
There is no buffer in this process: what `EvidenceFile.append` has written survives the end of the process,
but not a power cut before the kernel has written it to disk.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sensor.errors import EvidenceError
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.file_name import FileKind, parse_name
from sensor.evidence.pcap import RecordReader, file_header
from sensor.process.regular_file import ForeignFileError, check_regular, identity, open_regular, open_to_read

_FULL = (errno.ENOSPC, errno.EDQUOT)

log = logging.getLogger(__name__)


def open_evidence(path: Path) -> BinaryIO:
    """Open an evidence file for reading, by its final name, whether it is finished or not.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        return open_to_read(path)
    with contextlib.suppress(FileNotFoundError):
        return open_to_read(path.with_name(f"{path.name}.temp"))
    return open_to_read(path)  # it was finished between the two attempts, or it is gone


def is_gone(path: Path) -> bool:
    """Return True if an evidence file exists neither under its final name nor as an open file.

    The writer may rename it between two looks, so the first name is tried again.
    """
    names = path, path.with_name(f"{path.name}.temp"), path
    return not any(map(os.path.lexists, names))


@contextlib.contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Handle errors of reading a device directory: a missing one counts as empty.

    Raises:
        EvidenceError: the directory cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        raise EvidenceError(f"{directory} cannot be read: {error.strerror}") from error


def evidence_sizes(directory: Path) -> dict[str, tuple[int, bool]]:
    """Return the size of each evidence file and whether it is still open, by its final name.

    They are the regular files with the name of one. A missing directory has none.

    Raises:
        EvidenceError: the directory cannot be read.
    """
    sizes: dict[str, tuple[int, bool]] = {}
    with reading(directory), os.scandir(directory) as entries:
        for entry in entries:
            if parse_name(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):  # just renamed or deleted
                    size = entry.stat(follow_symlinks=False).st_size
                    sizes[entry.name.removesuffix(".temp")] = size, entry.name.endswith(".temp")
    return sizes


class EvidenceFile:
    """A file that one writer appends to. It is closed until `open` has returned True."""

    def __init__(self, path: Path, linktype: int) -> None:
        self.path = path
        """Its final name."""
        self.temp = path.with_name(f"{path.name}.temp")
        self.end = 0
        """Offset of the byte after the last whole record."""
        self.records = 0
        self.cut = 0
        """Bytes of a torn record that were found after the last whole one, and cut off."""
        name = parse_name(path.name)
        self.kind = name.kind if name else FileKind.OTHER
        self.until_s = 0
        """End of the latest window written to the file, in seconds since the epoch."""
        self._linktype = linktype
        self.is_broken = False
        """True if the last write failed, and not for a full disk: another descriptor may do better."""
        self._descriptor = -1
        self._torn = False

    def open(self) -> bool:
        """Create the file, or open the existing one and cut off a torn record at its end.

        Returns False, and changes nothing, if the existing file is not an evidence file of this link type,
        is damaged, or exists under both its open and its final name.

        Raises:
            OSError: the file cannot be created, opened or renamed.
        """
        present = [path for path in (self.temp, self.path) if os.path.lexists(path)]
        if not present:
            self._descriptor = open_regular(self.temp, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            self.end = self.records = 0
            return True
        try:
            if len(present) > 1 or not self._check(present[0]):
                return False
            if present[0] == self.path:
                self.path.rename(self.temp)
        except FileNotFoundError:  # retention has just deleted it
            return self.open()
        self._descriptor = open_regular(self.temp, os.O_RDWR)
        if self.cut:
            os.ftruncate(self._descriptor, self.end)
        return True

    def _check(self, path: Path) -> bool:
        """Find the end of the last whole record; return True if the file can be appended to.

        The file is only read if its size is not what this run left.
        """
        try:
            check_regular(path, is_written=True)
        except ForeignFileError:
            return False
        size = path.lstat().st_size
        if self.records and size == self.end:
            self.cut = 0
            return True
        try:
            with open_to_read(path, 1 << 20) as file:
                reader = RecordReader(file)
                self.records = sum(1 for _ in reader)
        except EvidenceError:
            return False
        self.end = reader.end
        self.cut = size - reader.end
        return reader.linktype in (self._linktype, None)

    @property
    def is_in_place(self) -> bool:
        """False if the open file was removed, replaced or cut, so that further records would be lost.

        Raises:
            OSError: this cannot be found out.
        """
        is_whole = os.fstat(self._descriptor).st_size >= self.end
        return is_whole and identity(self._descriptor) == identity(self.temp)

    def release(self) -> None:
        """Close the file and leave it as it is; `open` may open it again, or another one with its name."""
        os.close(self._descriptor)
        self._descriptor = -1
        self._torn = self.is_broken = False

    def append(self, block: EvidenceBlock) -> None:
        """Append the records of a block, in one write if the kernel accepts it whole.

        Raises:
            OSError: not all records could be written. ``records`` has grown by those that were; a partly
                written record is cut off, and the next call continues there. The error names the file.
        """
        header = b"" if self.end else file_header(self._linktype)
        ends = block.record_offsets(len(header))[1:]
        size = int(ends[-1])
        done = 0
        try:
            if self._torn:
                self._cut_back()
            self._torn = True
            while done < size:
                # Written at an explicit position, to overwrite what a failed write has left there.
                rest = header[done:], block.records[max(done - len(header), 0) :].data
                done += os.pwritev(self._descriptor, rest, self.end + done)
            self._torn = False
        except OSError as error:
            error.filename = str(self.temp)
            self.is_broken = error.errno not in _FULL
            raise
        finally:
            whole = int(np.searchsorted(ends, done, side="right"))
            if whole:
                self.end += int(ends[whole - 1])
                self.records += whole
            if self._torn:
                with contextlib.suppress(OSError):
                    self._cut_back()

    def _cut_back(self) -> None:
        os.ftruncate(self._descriptor, self.end)
        self._torn = False

    def finish(self) -> None:
        """Close the file and give it its final name, or remove it if it has no record.

        Raises:
            OSError: the file cannot be renamed, for instance because another file has the final name by now.
                It is closed, and keeps its ``.temp`` name.
        """
        try:
            if not self.is_in_place:
                raise FileNotFoundError(errno.ENOENT, "removed or replaced", str(self.temp))
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
    """Open the evidence file with this stem, or ``<stem>-2`` and so on if a foreign file has the name.

    Raises:
        OSError: the file cannot be created or opened.
    """
    for name in chain([stem], (f"{stem}-{number}" for number in count(2))):
        file = EvidenceFile(directory / f"{name}.pcap", linktype)
        if file.open():
            if file.cut:
                log.warning("%s: %d bytes of an incomplete record cut off", file.path, file.cut)
            return file
        log.warning(
            "%s is foreign or damaged and left as it is; evidence goes to another file beside it", file.path
        )
    raise AssertionError("count() never ends")
