"""Digest of the content of a capture file, by which it is known under any name.

Runs in ``sensor read``. Compressed files are decompressed first: a capture and its ``.gz`` have one content.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from sensor.errors import CaptureFileError
from sensor.files.byte_source import SKIP_BYTES, STANDARD_INPUT, BytesLike, ByteSource

_BEGINNINGS = tuple(40 << power for power in range(8))
"""Sizes of the beginnings, up to 5 KiB; the smallest one has the time of the first packet of a pcap file."""
_SHORT = 16


class Content(NamedTuple):
    """The content of a capture file, as far as it is needed to know it again."""

    size: int = 0
    """Bytes, decompressed."""
    sha256: str = ""
    """Hexadecimal."""
    beginnings: tuple[str, ...] = ()
    """Start of the SHA-256 of each beginning of 40, 80, 160 ... bytes that there is."""

    def begins_like(self, other: Content) -> bool:
        """Return True if both begin with the same bytes, as far as both go: one may continue the other."""
        common = min(len(self.beginnings), len(other.beginnings))
        return self.sha256 == other.sha256 or self.beginnings[:common] == other.beginnings[:common] != ()


class ContentDigest:
    """Computes a `Content` from the bytes of a file, as they are read."""

    def __init__(self) -> None:
        self.is_complete = False
        """True if the whole file was read for this, before its frames are."""
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._beginnings: list[str] = []

    def update(self, data: BytesLike) -> None:
        """Add the next bytes."""
        data = memoryview(data)
        while len(self._beginnings) < len(_BEGINNINGS):
            missing = _BEGINNINGS[len(self._beginnings)] - self._size
            if len(data) < missing:
                break
            self._add(data[:missing])
            self._beginnings.append(self._sha256.hexdigest()[:_SHORT])
            data = data[missing:]
        self._add(data)

    def _add(self, data: memoryview) -> None:
        self._sha256.update(data)
        self._size += len(data)

    def content(self) -> Content:
        """Return the content so far."""
        return Content(self._size, self._sha256.hexdigest(), tuple(self._beginnings))


def digest_of(path: Path, may_be_known: Callable[[Content], bool]) -> ContentDigest:
    """Return the digest of a file if it may be known by its beginning; otherwise an empty one.

    The file is then read twice, and only then: its frames are read after this. The digest is empty as well if
    the file can be read only once, or not to its end. ``may_be_known`` is asked once, for the beginning.
    """
    digest = ContentDigest()
    try:
        status = os.fstat(0) if path == STANDARD_INPUT else path.stat()
        if stat.S_ISREG(status.st_mode):
            start = os.lseek(0, 0, os.SEEK_CUR) if path == STANDARD_INPUT else None
            with closing(ByteSource(path)) as source:
                digest.update(source.read(_BEGINNINGS[-1]))
                digest.is_complete = may_be_known(digest.content())
                while digest.is_complete and not source.at_end:
                    digest.update(source.read(SKIP_BYTES))
            if start is not None:
                os.lseek(0, start, os.SEEK_SET)
    except (OSError, CaptureFileError):  # reading the frames names the error, after those before it
        return ContentDigest()
    return digest if digest.is_complete else ContentDigest()
