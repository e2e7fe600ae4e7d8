"""A capture worker: reads its share of the rings, matches, hands what it found to the supervisor.

A process of its own, forked from the supervisor with the compiled rules in it. It owns nothing
that outlives it: a batch belongs to the ring until the supervisor has been told what came of
it, so whatever moment a worker dies at, no frame is lost and none counts twice.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from sensor.capture.ring import PerfRing, RingSet
from sensor.pipeline import BatchReport, Pipeline
from sensor.process.capabilities import keep_capabilities
from sensor.rules.engine.flows import FlowTable

DRAIN, HAND_OVER = signal.SIGUSR2, signal.SIGUSR1
"""Read the rings empty and end; end after the batch at hand."""
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal or a service manager sends these to every process; only the supervisor answers them."""

WAIT_MS = 20
"""Bounds the delay of a frame that waits in a ring for others. Every batch has a cost of its own: with 5 ms,
100,000 frames a second of which 1 % match cost twice the CPU time; of which 8 % do, an eighth more, and their
evidence could be read sooner. A ring that is an eighth full ends the wait."""
ENOUGH_BYTES = 1 << 20
"""In a ring: worth a batch without waiting for more."""
CLOCK_S = 1.0
_PR_SET_PDEATHSIG = 1


class Up(NamedTuple):
    """The first word of a worker: it has its rings, and reads them from now on."""


class Farewell(NamedTuple):
    """The last word of a worker that was asked to end: what its successor has to know."""

    flows: FlowTable


@contextmanager
def signals_held() -> Iterator[None]:
    """Fork workers in here: signals wait until the worker's own handlers are there to take them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (DRAIN, HAND_OVER, *_IGNORED))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(
    number: int, pipeline: Pipeline, rings: Sequence[PerfRing], connection: Connection, supervisor: int
) -> None:
    """Be a worker until told to end, or until the supervisor, a process id, is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        return
    with suppress(OSError):  # only for those who look with ps
        Path("/proc/self/comm").write_text(f"sensor-worker{number}", encoding="ascii")
    gc.freeze()  # what was inherited is shared with the other workers as long as nothing touches it
    told = _handle_signals()
    mine = RingSet([ring.mapped_anew() for ring in rings])
    keep_capabilities()  # from here on it only reads what strangers sent
    clock_due_s = time.monotonic() + CLOCK_S
    with suppress(BrokenPipeError):
        _send(connection, Up())
        while HAND_OVER not in told:
            busy = [_take_batch(ring, mine, pipeline, connection) for ring in mine.rings]
            if DRAIN in told and not any(busy):
                break
            if not told and all(ring.waiting_bytes < ENOUGH_BYTES for ring in mine.rings):
                mine.wait(WAIT_MS)
            if time.monotonic() > clock_due_s:
                mine.clock.remeasure()
                clock_due_s = time.monotonic() + CLOCK_S
        _send(connection, Farewell(pipeline.flows))


def _take_batch(ring: PerfRing, rings: RingSet, pipeline: Pipeline, connection: Connection) -> bool:
    """Take one batch of a ring to the end; whether there was any."""
    started_ns, fill = time.perf_counter_ns(), ring.fill()
    batch = ring.read(rings.clock)
    if batch is None:
        return False
    before = pipeline.counts()
    items = pipeline.process(batch)
    read, undecodable, unmatched, cut, match_ns = (
        now - then for now, then in zip(pipeline.counts(), before, strict=True)
    )
    frames = (read, undecodable, unmatched, cut)
    batch_ns = time.perf_counter_ns() - started_ns
    _send(connection, BatchReport(ring.cpu, ring.next_tail, *frames, items, batch_ns, match_ns, fill))
    ring.release()
    return True


def _send(connection: Connection, message: Up | BatchReport | Farewell) -> None:
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def _handle_signals() -> set[int]:
    """Note DRAIN and HAND_OVER, from now on."""
    told: set[int] = set()

    def note(signal_number: int, _frame: FrameType | None) -> None:
        told.add(signal_number)

    for number in (DRAIN, HAND_OVER):
        signal.signal(number, note)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (DRAIN, HAND_OVER, *_IGNORED))
    return told
