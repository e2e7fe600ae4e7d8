"""The channel by which a worker reports to the supervisor: shared memory, and records of fixed size.

A worker parses untrusted bytes, so the supervisor trusts nothing it says. A report is a `MESSAGE` of fixed
size, in a datagram. The evidence lies in the worker's shared memory, in one of `SLOTS`. The supervisor copies
it out, checks every field against its bounds, and gives the slot back. It never waits for a worker: a
datagram is there as a whole or not at all.
"""

from __future__ import annotations

import mmap
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from sensor.evidence.batch_report import BatchReport
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.block_codec import MalformedBlockError, block_bytes, decode_block, encode_block
from sensor.pipeline import Pipeline

SLOTS = 2
"""Blocks of one worker that the supervisor may have to handle at a time."""
SLOT_BYTES = 16 << 20
MOST_PARTS = 64
"""Blocks into which the evidence of one batch may be divided."""

MESSAGE = np.dtype(
    [
        ("kind", "<u4"),
        ("cpu", "<u4"),
        ("tail", "<u8"),
        ("read", "<u4"),
        ("undecodable", "<u4"),
        ("unmatched", "<u4"),
        ("sampled", "<u4"),
        ("cut", "<u4"),
        ("slot", "<u4"),
        ("items", "<u4"),
        ("rules", "<u4"),
        ("records_bytes", "<u4"),
        ("batch_ns", "<u8"),
        ("match_ns", "<u8"),
        ("fill", "<f8"),
    ]
)


_REPORTED = ("tail", "read", "undecodable", "unmatched", "sampled", "cut", "batch_ns", "match_ns", "fill")
"""Fields of a message that have the name of the report's."""


class Kind(IntEnum):
    """The meaning of a message."""

    STARTED = 1
    """The worker has mapped its rings and reads them from now on."""
    PART = 2
    """Some of the evidence of a batch; the rest follows."""
    REPORT = 3
    """The result of a batch, with the last of its evidence."""
    STOPPED = 4
    """The worker was asked to stop and has done so."""


class MalformedReportError(Exception):
    """A worker has sent something that a sound worker does not send."""


class ReportChannel:
    """Both ends of the channel of one worker. Create it before the worker is forked."""

    def __init__(self) -> None:
        self._supervisor, self._worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._memory = mmap.mmap(-1, SLOTS * SLOT_BYTES)  # pages are allocated when written
        self._slots = np.frombuffer(self._memory, np.uint8).reshape(SLOTS, SLOT_BYTES)
        self._free = list(range(SLOTS))

    def fileno(self) -> int:
        """Return the supervisor's descriptor, which is readable when there is a message."""
        return self._supervisor.fileno()

    # In the worker

    def enter_worker(self) -> None:
        """Close the supervisor's end. The worker ends when it writes to a supervisor that is gone."""
        self._supervisor.close()

    @property
    def shared_address(self) -> int:
        """Address of the shared memory."""
        return int(self._slots.ctypes.data)

    @property
    def worker_fd(self) -> int:
        """The worker's descriptor."""
        return self._worker.fileno()

    def send(self, kind: Kind) -> None:
        """Send a message without evidence."""
        self._send(kind)

    def report(self, report: BatchReport) -> None:
        """Send the result of a batch; wait while the supervisor has all slots.

        Raises:
            OSError: The supervisor is gone.
        """
        block = report.block
        parts = list(_parts(block)) if block is not None and len(block) else [None]
        for part in parts[:-1]:
            self._send(Kind.PART, report.cpu, part=part)
        self._send(Kind.REPORT, report.cpu, report, parts[-1])

    def _send(
        self,
        kind: Kind,
        cpu: int = 0,
        report: BatchReport | None = None,
        part: EvidenceBlock | None = None,
    ) -> None:
        message = np.zeros(1, MESSAGE)
        message["kind"], message["cpu"] = kind, cpu
        if report is not None:
            for name in _REPORTED:
                message[name] = getattr(report, name)
        if part is not None:
            while not self._free:
                self._free.append(self._receive_slot())
            slot = self._free.pop()
            encode_block(part, self._slots[slot])
            message["slot"], message["items"] = slot, len(part)
            message["rules"], message["records_bytes"] = len(part.rules), len(part.records)
        self._worker.send(message.tobytes())

    def _receive_slot(self) -> int:
        answer = self._worker.recv(1)
        if not answer:
            raise BrokenPipeError("the supervisor is gone")
        return answer[0]

    # In the supervisor

    def enter_supervisor(self) -> None:
        """Close the worker's end, so that reading ends when the worker does."""
        self._worker.close()
        self._supervisor.setblocking(False)

    def receive(self, pipeline: Pipeline) -> Message | None:
        """Return the next message, with its evidence copied and checked; None if the worker has ended.

        ``pipeline`` is the one that the worker was started with; the evidence refers to its rules.

        Raises:
            BlockingIOError: There is no message.
            MalformedReportError: A field is out of bounds.
        """
        data = self._receive(MESSAGE.itemsize + 1)
        if not data:
            return None
        if len(data) != MESSAGE.itemsize:
            raise MalformedReportError(f"a message of {len(data)} bytes")
        [message] = np.frombuffer(data, MESSAGE)
        try:
            kind = Kind(int(message["kind"]))
        except ValueError as error:
            raise MalformedReportError(f"a message of kind {message['kind']}") from error
        block = self._block(message, pipeline) if message["items"] else None
        return Message(kind, message, block)

    def _block(self, message: np.void, pipeline: Pipeline) -> EvidenceBlock:
        slot, items, rules = (int(message[name]) for name in ("slot", "items", "rules"))
        records_bytes = int(message["records_bytes"])
        size = block_bytes(items, rules, records_bytes)
        if slot >= SLOTS or size > SLOT_BYTES:
            raise MalformedReportError(f"{size} bytes in slot {slot}")
        data = self._slots[slot, :size].copy()  # from here on the worker cannot change it
        with suppress(BrokenPipeError, ConnectionResetError):  # it died since; its report counts
            try:
                self._supervisor.send(bytes([slot]))
            except BlockingIOError as error:
                raise MalformedReportError("it sends blocks without waiting for free slots") from error
        try:
            block = decode_block(data, items, rules, records_bytes, pipeline.matcher.rules)
        except MalformedBlockError as error:
            raise MalformedReportError(str(error)) from error
        return replace(block, http=pipeline.matcher.http, digest=pipeline.digest)

    def discard(self) -> bool:
        """Discard one message; return False if the worker has ended.

        Raises:
            BlockingIOError: There is no message.
        """
        return bool(self._receive(1))

    def _receive(self, size: int) -> bytes:
        try:
            return self._supervisor.recv(size)
        except ConnectionResetError:  # it ended before it took slots back; its messages are still there
            return self._supervisor.recv(size)

    def close(self) -> None:
        """Close the supervisor's end."""
        self._supervisor.close()


class Message(NamedTuple):
    """One message of a worker, as the supervisor sees it."""

    kind: Kind
    fields: np.void
    """A record of dtype `MESSAGE`; only the evidence has been checked."""
    block: EvidenceBlock | None


def _parts(block: EvidenceBlock) -> Iterator[EvidenceBlock]:
    """Divide a block into parts that fit into a slot."""
    first = 0
    while first < len(block):
        end = len(block)
        part = block.part(first, end)
        while block_bytes(len(part), len(part.rules), len(part.records)) > SLOT_BYTES:
            end = first + (end - first) // 2
            part = block.part(first, end)
        yield part
        first = end
