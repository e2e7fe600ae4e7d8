"""A capture worker reads its share of the rings, matches, and sends the evidence to the supervisor.

It is a process forked from the supervisor, with the compiled rules in it. A batch stays in the ring until it
has been reported: whenever a worker dies, no frame is lost and none counts twice.
"""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from sensor.capture.ring import PerfRing, RingSet
from sensor.live.report_channel import Kind, ReportChannel
from sensor.pipeline import BatchReport, Pipeline
from sensor.process import sandbox
from sensor.process.accounts import Role
from sensor.process.prctl import end_with_parent, set_process_name
from sensor.rules.engine.flows import FlowTable

DRAIN, HAND_OVER = signal.SIGUSR2, signal.SIGUSR1
"""Signals that stop a worker: once its rings are empty, or after the current batch."""
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal or a service manager sends these to every process; only the supervisor acts on them."""

WAIT_MS = 20
"""Longest time a frame waits in a ring for others, since each batch has a cost of its own.

With 5 ms instead, 100,000 frames per second cost twice the CPU time if 1 % of them match, and an eighth more
if 8 % do; their evidence could be read sooner. A ring that is an eighth full ends the wait.
"""
ENOUGH_BYTES = 1 << 20
"""Bytes in a ring that are worth a batch without waiting for more."""
CLOCK_S = 1.0


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block signals while a worker is forked; it unblocks them once its handlers are installed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (DRAIN, HAND_OVER, *_IGNORED))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(
    number: int,
    pipeline: Pipeline,
    flows: FlowTable,
    rings: Sequence[PerfRing],
    channel: ReportChannel,
    supervisor: int,
    skip_cpu: int | None,
) -> None:
    """Read rings until asked to stop, or until the supervisor, a process id, has ended.

    The first batch of ``skip_cpu`` is reported as undecodable, unread: workers have died of it.
    """
    end_with_parent(supervisor)
    set_process_name(f"sensor-worker{number}")
    gc.freeze()  # memory inherited from the supervisor stays shared as long as it is not written
    stop_signals = _handle_signals()
    own = RingSet([ring.remap() for ring in rings])
    channel.enter_worker()
    sandbox.enter(  # from here on this process parses untrusted bytes
        Role.WORKER,
        descriptors=[channel.worker_fd, *(ring.fd for ring in own.rings)],
        shared=[channel.shared_address, flows.shared_address, *(ring.address for ring in own.rings)],
        supervisor=supervisor,
    )
    pipeline.flows = flows
    clock_due_s = time.monotonic() + CLOCK_S
    with suppress(BrokenPipeError, ConnectionResetError):
        channel.send(Kind.STARTED)
        for ring in own.rings:
            if ring.cpu == skip_cpu:
                _skip_batch(ring, own, channel)
        while HAND_OVER not in stop_signals:
            had_frames = [_process_batch(ring, own, pipeline, channel) for ring in own.rings]
            if DRAIN in stop_signals and not any(had_frames):
                break
            if not stop_signals and all(ring.waiting_bytes < ENOUGH_BYTES for ring in own.rings):
                own.wait(WAIT_MS)
            if time.monotonic() > clock_due_s:
                own.clock.remeasure()
                clock_due_s = time.monotonic() + CLOCK_S
        channel.send(Kind.STOPPED)


def _process_batch(ring: PerfRing, rings: RingSet, pipeline: Pipeline, channel: ReportChannel) -> bool:
    """Match and report one batch of a ring, then release it; return False if the ring was empty."""
    started_ns, fill = time.perf_counter_ns(), ring.fill()
    batch = ring.read(rings.clock)
    if batch is None:
        return False
    before = pipeline.counts()
    block = pipeline.process(batch)
    read, undecodable, unmatched, cut, match_ns = (
        now - then for now, then in zip(pipeline.counts(), before, strict=True)
    )
    frames = (read, undecodable, unmatched, cut)
    batch_ns = time.perf_counter_ns() - started_ns
    channel.report(BatchReport(ring.cpu, ring.next_tail, *frames, block, batch_ns, match_ns, fill))
    ring.release()
    return True


def _skip_batch(ring: PerfRing, rings: RingSet, channel: ReportChannel) -> None:
    """Release a ring's next batch without looking into its frames; report them as undecodable."""
    batch = ring.read(rings.clock)
    if batch is not None:
        channel.report(BatchReport(ring.cpu, ring.next_tail, len(batch), len(batch), 0, 0, None))
        ring.release()


def _handle_signals() -> set[int]:
    """Unblock signals; return the set to which `DRAIN` and `HAND_OVER` are added when they arrive."""
    received: set[int] = set()

    def note(signal_number: int, _frame: FrameType | None) -> None:
        received.add(signal_number)

    for number in (DRAIN, HAND_OVER):
        signal.signal(number, note)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (DRAIN, HAND_OVER, *_IGNORED))
    return received
