"""A capture worker reads its share of the rings, matches, and sends the evidence to the supervisor.

It is a process forked from the supervisor, with the compiled rules in it. Frames stay in the ring until they
have been reported: whenever a worker dies, no frame is lost and none counts twice. A batch whose frames are
costly to match is reported in several turns.
"""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from sensor.capture.fair_shares import FairShares
from sensor.capture.ring import PerfRing
from sensor.capture.ring_set import RingSet
from sensor.evidence.batch_report import BatchReport
from sensor.live.heartbeat import Heartbeat
from sensor.live.report_channel import Kind, ReportChannel
from sensor.native.source_table import SourceTable
from sensor.pipeline import Pipeline
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole
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
TURN_NS = 50_000_000
"""Time after which the frames matched so far are reported; with what belongs to it, a tenth of a second."""
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
    sources: SourceTable,
    rings: Sequence[PerfRing],
    channel: ReportChannel,
    heartbeat: Heartbeat,
    supervisor: int,
    suspects: Mapping[int, int],
) -> None:
    """Read rings until asked to stop, or until the supervisor, a process id, has ended.

    ``suspects`` says up to which position in the ring of a CPU workers may die of the frames.
    """
    end_with_parent(supervisor)
    set_process_name(f"sensor-worker{number}")
    gc.freeze()  # memory inherited from the supervisor stays shared as long as it is not written
    stop_signals = _handle_signals()
    own = RingSet([ring.remap() for ring in rings])
    channel.enter_worker()
    sandbox.enter(  # from here on this process parses untrusted bytes
        ProcessRole.WORKER,
        descriptors=[channel.worker_fd, *(ring.fd for ring in own.rings)],
        shared=[
            channel.shared_address,
            flows.shared_address,
            sources.shared_address,
            heartbeat.shared_address,
            *(ring.address for ring in own.rings),
        ],
        supervisor=supervisor,
    )
    pipeline.flows, pipeline.beat = flows, heartbeat.beat
    for ring in own.rings:
        flows.undo(ring.cpu, ring.tail)
    # while rings are drained nothing arrives, so that everything can be matched
    shares = FairShares(sources, lambda: 0.0 if DRAIN in stop_signals else own.fill())
    pipeline.shares = shares
    pipeline.matcher.batch_matcher.show_place_in(heartbeat.place)
    clock_due_s = time.monotonic() + CLOCK_S
    with suppress(BrokenPipeError, ConnectionResetError):
        channel.send(Kind.STARTED)
        while HAND_OVER not in stop_signals:
            had_frames = False
            for ring in own.rings:
                if ring.waiting_bytes:
                    had_frames = True
                    heartbeat.enter_ring(ring.cpu)
                    _process_batch(ring, own, pipeline, shares, channel, suspects.get(ring.cpu, 0))
                    heartbeat.leave_ring()
            heartbeat.beat()
            if DRAIN in stop_signals and not had_frames:
                break
            if not stop_signals and all(ring.waiting_bytes < ENOUGH_BYTES for ring in own.rings):
                own.wait(WAIT_MS)
            if time.monotonic() > clock_due_s:
                own.clock.remeasure()
                clock_due_s = time.monotonic() + CLOCK_S
        channel.send(Kind.STOPPED)


def _process_batch(
    ring: PerfRing,
    rings: RingSet,
    pipeline: Pipeline,
    shares: FairShares,
    channel: ReportChannel,
    suspects_end: int,
) -> None:
    """Match a batch of a ring; report and release it, turn by turn.

    Of the frames up to ``suspects_end``, a batch has half.
    """
    started_ns, fill = time.perf_counter_ns(), ring.fill()
    batch = ring.read(rings.clock, ring.halfway(suspects_end) if ring.tail < suspects_end else None)
    if batch is None:
        return
    pipeline.flows.begin_batch(ring.cpu)
    before = pipeline.counts()
    for turn in pipeline.turns(batch, TURN_NS):
        now = pipeline.counts()
        read, undecodable, unmatched, sampled, cut, match_ns = (
            after - then for after, then in zip(now, before, strict=True)
        )
        frames = read, undecodable, unmatched, cut
        done_ns = time.perf_counter_ns()
        times = done_ns - started_ns, match_ns
        tail = ring.tail_after(turn.end)
        channel.report(BatchReport(ring.cpu, tail, *frames, turn.block, *times, fill, sampled))
        ring.release(turn.end)
        before, started_ns, fill = now, time.perf_counter_ns(), ring.fill()
        shares.note_report(started_ns - done_ns, len(turn.block))


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
