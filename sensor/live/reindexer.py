"""Fills the gaps of the index while capture runs. Runs in the indexer, with another process that matches.

That process, the reindexer, reads packets that may be hostile, so little of what it sends is believed. The
indexer reads the records itself, and compares them with the rows: a row has the offset, time and length of a
real record. A reindexer that sends anything else is closed down, and the gap stays as it was.
"""

from __future__ import annotations

import logging
import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.block_codec import MalformedBlockError, check_origin
from sensor.evidence.conversation_links import LinkRules, link
from sensor.evidence.day_writer import Gap
from sensor.evidence.evidence_file import open_evidence
from sensor.evidence.index_schema import NO_INTERFACE
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.message import MalformedMessageError, ReceivedMessage, pack
from sensor.evidence.pcap import RECORD_HEADER_BYTES, SNAPLEN, RecordReader
from sensor.evidence.reconcile import FILL_BYTES, FILL_ITEMS, Gaps, compare, fill
from sensor.evidence.rule_codec import decode_rules
from sensor.live.message_pipe import MessagePipe
from sensor.live.reindex_channel import MESSAGE_BYTES, ReindexKind, encode_gaps
from sensor.model import Rule
from sensor.rules.engine.http_payload import HttpReading

TURN_S = 0.02
"""Time one call of `Reindexer.tick` may spend on received parts, so that new rows do not wait longer."""
FIRST_PAUSE_S, PAUSE_S = 1.0, 60.0
"""Shortest and longest time between two searches for gaps.

It doubles while searches follow each other, and is the longest after a failure.
"""
SILENCE_S = 600.0
"""Time without a message, after which a reindexer is replaced. It has to load the rules, at the lowest
priority."""
MOST_RULES = 1 << 17
"""Rules that a reindexer may define."""
_MOST_FILL_BYTES = FILL_BYTES + SNAPLEN + FILL_ITEMS * RECORD_HEADER_BYTES
_DIGEST = re.compile(rb"[0-9a-f]{64}")

log = logging.getLogger(__name__)


class Reindexer:
    """Looks for gaps of the index, and fills them with what a reindexer finds in the files.

    `tick` does a small part of the work. The owner watches `wanted`, starts a process for each new number,
    and passes its socket to `adopt`.
    """

    def __init__(
        self,
        index: IndexWriter,
        http: HttpReading,
        watch_arrival: Callable[[], Callable[[], bool]],
        rules: LinkRules,
    ) -> None:
        """Prepare; start with the first call of `tick`.

        ``http`` is the definition of HTTP that the reindexer matches with. ``watch_arrival`` returns a
        function that returns True once all rows that were on their way have been added. ``rules`` are those
        of conversations.
        """
        self.wanted = 0
        """Number of the process that is needed; 0: none."""
        self.remaining_bytes = 0
        """Bytes of evidence files that are known to have no rows yet."""
        self.done_bytes = 0
        """Bytes of evidence files that were given rows since the start."""
        self._index = index
        self._http = http
        self._watch_arrival = watch_arrival
        self._rules = rules
        self._processes = 0
        self._links: Iterator[None] | None = None
        self._comparison: Iterator[Gaps | None] | None = None
        self._gaps: Gaps = []
        self._child: _Child | None = None
        self._searched_s, self._pause_s = -PAUSE_S, FIRST_PAUSE_S
        self._next_s = 0.0

    @property
    def is_busy(self) -> bool:
        """True while gaps are looked for or filled, and until the rows are in their conversations."""
        return bool(self._comparison or self.wanted or self._links)

    @property
    def is_comparing(self) -> bool:
        """True while `tick` has work that waits for nobody."""
        return self._comparison is not None or (self._links is not None and not self.wanted)

    @property
    def channel(self) -> tuple[int, int] | None:
        """The socket to the reindexer and the events of poll(2) to wait for; None if there is no socket."""
        if self._child is None:
            return None
        return self._child.descriptor, select.POLLIN | (select.POLLOUT if self._child.unsent else 0)

    def tick(self) -> None:
        """Do a small part of the work."""
        if self._comparison is not None:
            self._compare(self._comparison)
        elif self._child is not None:
            self._receive(self._child)
        elif self._links is not None and not self.wanted:
            self._link(self._links)
        elif not self.wanted and self._index.is_behind and time.monotonic() >= self._next_s:
            self._search()

    def adopt(self, number: int, channel: socket.socket | None) -> None:
        """Use the socket to the process with this number; None: it could not be started."""
        if number != self.wanted or self._child:
            if channel:
                channel.close()
        elif channel:
            self._child = _Child(channel, self._gaps)
        else:
            self._retry_later()

    def close(self) -> None:
        """Give up the process; the gaps it has not filled are left for another one."""
        if self._child:
            self._child.close()
        self._child = None
        self.wanted = 0

    def _search(self) -> None:
        """Begin to look for gaps."""
        now_s = time.monotonic()
        is_first = now_s - self._searched_s >= PAUSE_S
        self._pause_s = FIRST_PAUSE_S if is_first else min(2 * self._pause_s, PAUSE_S)
        self._searched_s, self._next_s = now_s, now_s + self._pause_s
        self._comparison = self._steps()

    def _steps(self) -> Iterator[Gaps | None]:
        """Compare files and index; yield None until it is done, then the gaps."""
        steps = compare(self._index)
        has_arrived: Callable[[], bool] | None = None
        while True:
            try:
                next(steps)
            except StopIteration as end:
                yield end.value
                return
            if has_arrived is None:
                has_arrived = self._watch_arrival()
                while not has_arrived():
                    yield None
            yield None

    def _compare(self, comparison: Iterator[Gaps | None]) -> None:
        gaps = next(comparison)
        if gaps is None:
            return
        self._comparison = None
        self._links = link(self._index, self._rules)
        if gaps:
            self.remaining_bytes = sum(gap.end - gap.start for _, gap in gaps)
            log.info(
                "rebuilding the index for %d bytes of evidence in %d gaps", self.remaining_bytes, len(gaps)
            )
            self._gaps = gaps
            self._processes += 1
            self.wanted = self._processes

    def _link(self, links: Iterator[None]) -> None:
        """Put rows from the files into their conversations, for a while."""
        deadline_s = time.monotonic() + TURN_S
        while time.monotonic() < deadline_s:
            try:
                next(links)
            except StopIteration:
                self._links = None
                return

    def _receive(self, child: _Child) -> None:
        deadline_s = time.monotonic() + TURN_S
        try:
            child.send()
            while time.monotonic() < deadline_s:
                message = child.pipe.read()
                if message is None:
                    self._check_silence(child)
                    return
                child.heard_s = time.monotonic()
                if message.header.kind == ReindexKind.DONE and not child.gaps:
                    log.info("the index is complete")
                    self.remaining_bytes = 0
                    self.close()
                    return
                if not self._handle(child, message):
                    self._retry_later()
                    return
        except MalformedMessageError as error:
            log.error("the reindexer sent a malformed message and is killed: %s", error)  # noqa: TRY400
            self._retry_later()
        except (EOFError, OSError):
            self._retry_later()

    def _handle(self, child: _Child, message: ReceivedMessage) -> bool:
        """Handle a message; return False if the index cannot be written now.

        Raises:
            MalformedMessageError: the message is malformed, or it is not its turn.
            OSError: the evidence file cannot be read.
        """
        if child.learn(message):
            return True
        if not child.gaps or message.header.kind not in (ReindexKind.ROWS, ReindexKind.SKIP):
            raise MalformedMessageError(f"a message of kind {message.header.kind}")
        day, gap = child.gaps[0]
        block = block_of_objects([])
        offsets, rest = np.empty(0, np.int64), gap.end
        if message.header.kind == ReindexKind.ROWS:
            block, rest = self._block(child, message, gap)
            offsets = block.record_offsets(gap.start)[:-1] if len(block) else offsets
        if not fill(self._index, day, gap, offsets, block, rest):
            return False
        self.done_bytes += rest - gap.start
        self.remaining_bytes -= rest - gap.start
        child.gaps[:1] = [(day, gap._replace(start=rest))] if rest < gap.end else []
        return True

    def _block(self, child: _Child, message: ReceivedMessage, gap: Gap) -> tuple[EvidenceBlock, int]:
        """Return the items of a message, compared with the file, and the end of the last record.

        There are none if the file has been deleted.
        """
        header = message.header
        if not 0 < header.items <= FILL_ITEMS or header.records_bytes or header.text_bytes:
            raise MalformedMessageError(f"{header.items} items, {header.records_bytes} bytes of records")
        size = message.frame_records_bytes()
        if size > min(_MOST_FILL_BYTES, gap.end - gap.start):
            raise MalformedMessageError(f"records of {size} bytes from byte {gap.start} of {gap}")
        try:
            with open_evidence(self._index.directory / gap.name) as file:
                linktype = RecordReader(file).linktype or 0
                records = os.pread(file.fileno(), size, gap.start)
        except FileNotFoundError:
            return block_of_objects([]), gap.start + size
        block = message.block(child.rules, records)
        try:
            check_origin(block, [linktype], [NO_INTERFACE])
        except MalformedBlockError as error:
            raise MalformedMessageError(str(error)) from error
        block = replace(block, http=self._http, digest=child.digest)
        return block.without_records(), gap.start + size

    def _check_silence(self, child: _Child) -> None:
        if time.monotonic() - child.heard_s > SILENCE_S:
            log.error("the reindexer has sent nothing for %d s and is killed", SILENCE_S)
            self._retry_later()

    def _retry_later(self) -> None:
        log.warning("the index cannot be completed now; trying again in %d s", PAUSE_S)
        self.close()
        self._links = None  # the matches of a conversation may be among the rows that are missing
        self._next_s = time.monotonic() + PAUSE_S
        self._index.is_behind = True


class _Child:
    """The reindexer, and what it has said so far."""

    def __init__(self, channel: socket.socket, gaps: Gaps) -> None:
        """Prepare to send the gaps; ``channel`` is closed by `close`."""
        self.gaps = gaps
        """The rest of the work; the process does the first gap."""
        self.digest = ""
        self.rules: list[Rule] = []
        self.heard_s = time.monotonic()
        """Time of its last message."""
        self.unsent = memoryview(b"".join(pack(ReindexKind.GAPS, encode_gaps(gaps))))
        self.descriptor = channel.detach()
        self.pipe = MessagePipe(self.descriptor, MESSAGE_BYTES)

    def send(self) -> None:
        """Send as much of the gaps as fits.

        Raises:
            OSError: the process has ended.
        """
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.descriptor, self.unsent) :]
        except BlockingIOError:
            return

    def learn(self, message: ReceivedMessage) -> bool:
        """Keep what a message says about the rules; return False if it is about something else.

        Raises:
            MalformedMessageError: the message is malformed.
        """
        if message.header.kind == ReindexKind.DIGEST and not self.digest and _DIGEST.fullmatch(message.text):
            self.digest = message.text.decode("ascii")
            return True
        if message.header.kind == ReindexKind.RULES and self.digest:
            self.rules = [*self.rules, *decode_rules(message.text)]
            if len(self.rules) > MOST_RULES:
                raise MalformedMessageError(f"{len(self.rules)} rules")
            return True
        return False

    def close(self) -> None:
        """Close the channel."""
        self.pipe.close()
