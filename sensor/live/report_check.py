"""Checks of what a worker reports. Runs in the supervisor, which trusts no field of a message."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from sensor import abi
from sensor.capture.ring import RECORD_ALIGNMENT
from sensor.evidence.batch_report import BatchReport
from sensor.evidence.block import joined
from sensor.evidence.block_codec import MalformedBlockError, check_origin
from sensor.live.report_channel import MOST_PARTS, Kind, MalformedReportError, Message
from sensor.live.worker_process import WorkerProcess

_RAW_HEADER_BYTES = 12
"""Smallest part of a perf record beside what the program submits (linux/perf_event.h)."""
_LEAST_RECORD_BYTES = _RAW_HEADER_BYTES + abi.FRAME_META.itemsize
_MOST_NS = 3600 * 1_000_000_000
"""No batch takes an hour."""


def checked_report(
    worker: WorkerProcess, message: Message, interfaces: Collection[int]
) -> BatchReport | None:
    """Note a message of a worker; return the report of a batch once it is complete.

    Raises:
        MalformedReportError: The message contradicts itself, the rings, or the messages before it.
    """
    if message.block is not None:
        try:
            check_origin(message.block, {ring.linktype for ring in worker.rings}, interfaces)
        except MalformedBlockError as error:
            raise MalformedReportError(str(error)) from error
    if message.kind is Kind.STARTED:
        worker.has_started = True
    elif message.kind is Kind.STOPPED:
        _require(worker.stop_signal is not None, "it was not asked to stop")
        worker.has_stopped = True
    elif message.kind is Kind.PART:
        _require(message.block is not None, "a part without evidence")
        _require(len(worker.parts) < MOST_PARTS, "too many parts")
        assert message.block is not None  # noqa: S101 - for the type checker
        worker.parts.append(message.block)
    else:
        return _complete(worker, message)
    return None


def _complete(worker: WorkerProcess, message: Message) -> BatchReport:
    fields = message.fields
    cpu, tail, read = (int(fields[name]) for name in ("cpu", "tail", "read"))
    counts = ("undecodable", "unmatched", "sampled", "cut")
    undecodable, unmatched, sampled, cut = (int(fields[name]) for name in counts)
    batch_ns, match_ns, fill = int(fields["batch_ns"]), int(fields["match_ns"]), float(fields["fill"])
    parts = [*worker.parts, *([message.block] if message.block is not None else [])]
    rings = {ring.cpu: ring for ring in worker.rings}
    _require(cpu in rings, f"CPU {cpu} is not its own")
    before = worker.reported_tails[cpu]
    _require(before <= tail <= rings[cpu].head and tail % RECORD_ALIGNMENT == 0, f"tail {tail} of CPU {cpu}")
    _require(read * _LEAST_RECORD_BYTES <= tail - before, f"{read} frames in {tail - before} bytes")
    items = sum(map(len, parts))
    _require(read == undecodable + unmatched + sampled + items, "the frames of a batch do not add up")
    _require(cut <= read, f"{cut} payloads cut in {read} frames")
    _require(batch_ns <= _MOST_NS and match_ns <= _MOST_NS, "times")
    _require(bool(np.isfinite(fill)) and 0 <= fill <= 1, "the fill of the ring")
    worker.has_reported = True
    worker.parts = []
    worker.reported_tails[cpu] = tail
    block = joined(parts) if parts else None
    return BatchReport(cpu, tail, read, undecodable, unmatched, cut, block, batch_ns, match_ns, fill, sampled)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise MalformedReportError(what)
