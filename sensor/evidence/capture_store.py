"""Stores the evidence of capture files, each item once, however often its file is read.

Runs in ``sensor read``. A file with the content of one that was read to its end, with the same rules and
settings, adds nothing. Of any other file that begins like an earlier one (it was broken off, has grown, is
torn, or lost some of its evidence to retention), those items are left out that the evidence of the earlier
one has: as many of the same bytes and time as it has.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sensor.errors import CaptureFileError, EvidenceError
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.conversation import ConversationNote
from sensor.evidence.evidence_file import open_evidence
from sensor.evidence.file_name import FileKind, parse_name
from sensor.evidence.origins import CaptureOrigin, OriginEntry, Origins, Segment
from sensor.evidence.pcap import FILE_HEADER_BYTES, RecordReader, record_header
from sensor.evidence.writer import EvidenceWriter
from sensor.files.byte_source import STANDARD_INPUT
from sensor.files.content_digest import Content, ContentDigest

log = logging.getLogger(__name__)


class CaptureStore:
    """Writes evidence with its origin.

    Raises:
        EvidenceError: the journal of origins cannot be read.
    """

    def __init__(self, writer: EvidenceWriter, settings: str) -> None:
        """Store with a writer; ``settings`` stands for what decides which frames match."""
        self.stored_before = 0
        """Frames that were not written because they already are there, without context."""
        self._writer = writer
        self._settings = settings
        self._origins = Origins(writer.directory)
        self._reading = _Reading(STANDARD_INPUT, ContentDigest())
        writer.before_append = self._note_segment

    def may_have(self, content: Content) -> bool:
        """Return True if a file that begins like this one was read before."""
        return bool(self._alike(content))

    @property
    def context_written(self) -> int:
        """Frames of context that were written."""
        return self._writer.context_written

    @contextmanager
    def reading(self, path: Path, digest: ContentDigest) -> Iterator[None]:
        """Store what is written meanwhile as evidence of a capture file, whose digest may still grow."""
        one = self._reading = _Reading(path, digest)
        before = self._counts()
        one.same = self._same(one) if digest.is_complete else None
        one.is_skipped = one.same is not None and self._is_complete(one.same)
        is_done = False
        try:
            yield
            is_done = True
        except CaptureFileError:
            is_done = True  # as far as it can be read
            raise
        finally:
            written, failed, known = (now - then for now, then in zip(self._counts(), before, strict=True))
            one.same = one.same or self._same(one)
            if not one.is_skipped:
                self._end(one, is_done=is_done and not failed)
            if is_done and not failed:
                _report(one, written, known)

    def _counts(self) -> tuple[int, int, int]:
        """Return how many frames were written, could not be written, and were there before."""
        writer = self._writer
        written = writer.written + writer.context_written
        return written, writer.write_failed + writer.context_failed, self.stored_before

    def _same(self, one: _Reading) -> CaptureOrigin | None:
        """Return the last earlier reading of the same content, a complete one if there is one."""
        sha256 = one.digest.content().sha256
        others = (other for other in self._origins.all.values() if other.name != one.name)
        same = (other for other in others if other.content.sha256 == sha256)
        return max(same, key=lambda other: (other.is_done, other.time), default=None)

    def _is_complete(self, same: CaptureOrigin) -> bool:
        """Return True if nothing can be missing of a content that was read before."""
        alike = self._alike(same.content)
        is_judged = same.is_done and same.settings == self._settings
        return is_judged and all(map(self._origins.is_intact, alike))

    def _alike(self, content: Content) -> list[CaptureOrigin]:
        return [one for one in self._origins.all.values() if one.content.begins_like(content)]

    def write(self, block: EvidenceBlock) -> None:
        """Write those items of the capture file that is being read that are not stored yet."""
        one = self._reading
        if not len(block):
            return
        if one.is_skipped:
            self.stored_before += int(np.count_nonzero(~block.is_context))
            return
        if one.earlier is None:
            segments = [
                segment for origin in self._alike(one.digest.content()) for segment in origin.segments
            ]
            one.earlier = _records_of(self._origins.directory, segments)
        if one.earlier:
            is_new = np.array([not _take(one.earlier, keys) for keys in _keys(block)])
            self.stored_before += int(np.count_nonzero(~(is_new | block.is_context)))
            block = block.select(is_new)
        if len(block):
            for chunk in self._writer.write(block):
                if chunk.path:
                    one.ends[chunk.path.name] = int(chunk.offsets()[-1])

    def note(self, notes: Iterable[ConversationNote]) -> None:
        """Keep what is known of conversations."""
        for note in notes:
            self._writer.index.note(note)

    def _note_segment(self, name: str, offset: int) -> None:
        """Note where evidence will be written.

        Raises:
            OSError: it cannot be noted.
        """
        one = self._reading
        if name not in one.ends or offset == FILE_HEADER_BYTES:
            self._begin(one)
            self._origins.append(OriginEntry(_now(), "segment", one.name, file=name, offset=offset))
            one.ends[name] = offset

    def _begin(self, one: _Reading) -> None:
        if not one.is_begun:
            # The beginnings of a pipe are known by now, and find it if this process is killed.
            entry = OriginEntry(_now(), "begin", one.name, path=one.path, settings=self._settings)
            self._origins.append(entry._replace(**one.digest.content()._asdict()))
            one.is_begun = True

    def _end(self, one: _Reading, *, is_done: bool) -> None:
        try:
            self._begin(one)
            entry = OriginEntry(_now(), "end", one.name, ends=tuple(one.ends.items()), is_done=is_done)
            self._origins.append(entry._replace(**one.digest.content()._asdict()))
        except OSError as error:
            log.error(  # noqa: TRY400 - a traceback adds nothing
                "it cannot be noted that %s was read, so reading it again may take longer: %s: %s",
                one.path,
                error.filename or self._origins.directory,
                error.strerror,
            )


class _Reading:
    """A capture file that is being read."""

    def __init__(self, path: Path, digest: ContentDigest) -> None:
        self.name = f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(6)}"
        self.path = "standard input" if path == STANDARD_INPUT else _text(path)
        self.digest = digest
        self.is_begun = False
        self.is_skipped = False
        """True if nothing of it can be missing."""
        self.same: CaptureOrigin | None = None
        """An earlier reading of the same content."""
        self.earlier: Counter[int] | None = None
        """Number of records that are stored already, by hash."""
        self.ends: dict[str, int] = {}
        """End of what it has in each evidence file, by name."""


def _text(path: Path) -> str:
    """Return a path as text that every reader of JSON accepts."""
    return os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _take(records: Counter[int], keys: tuple[int, ...]) -> bool:
    """Take a record with the first of these keys that there is; return False if none is left."""
    for key in keys:
        if key in records:
            records[key] -= 1
            if not records[key]:
                del records[key]
            return True
    return False


def _keys(block: EvidenceBlock) -> Iterator[tuple[int, ...]]:
    """Yield hashes of each item's record, link type and kind; the seed of this process is secret.

    Context also has the hash of a match, as it may have been one with other rules. A match is stored again if
    it was context, because context is deleted first.
    """
    offsets = block.record_offsets().tolist()
    data = block.records.data
    kinds = [(True, False) if is_context else (False,) for is_context in block.is_context.tolist()]
    for linktype, start, end, kind in zip(
        block.items["linktype"].tolist(), offsets, offsets[1:], kinds, strict=False
    ):
        record = bytes(data[start:end])
        yield tuple(hash((linktype, is_context, record)) for is_context in kind)


def _records_of(directory: Path, segments: list[Segment]) -> Counter[int]:
    """Count the records of segments by hash; some 120 bytes of memory per record."""
    found: Counter[int] = Counter()
    for segment in segments:
        name = parse_name(segment.file)
        is_context = name is not None and name.kind == FileKind.CONTEXT
        with suppress(FileNotFoundError, EvidenceError), open_evidence(directory / segment.file) as file:
            reader = RecordReader(file)
            reader.seek(segment.start)
            for record in reader:
                if segment.end is not None and record.end > segment.end:
                    break
                header = record_header(record.time_us, record.caplen, record.wirelen)
                found[hash((reader.linktype, is_context, header + record.frame))] += 1
    return found


def _report(one: _Reading, written: int, known: int) -> None:
    """Log what was known before of a file that was read."""
    if one.same and not written:
        log.info("%s was already read on %s as %s; nothing to add", one.path, one.same.time, one.same.path)
    elif known:
        log.info("%s: %d matched frames were stored before, %d were added", one.path, known, written)
