"""Candidates read from the kernel by our ring reader and by BCC's. Runs in ``sensor bench ring``.

The CPU time per record is measured twice: for records that already wait in the ring, so that both readers
have the same work and no disturbance, and for records that arrive meanwhile.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from typing import Any, NamedTuple, Protocol

from sensor.abi import Counter
from sensor.bench.effort import RingEffort, Step
from sensor.bench.frame_generator import FrameGenerator, run_until_settled
from sensor.bench.machine import figure
from sensor.capture.attachment import attached
from sensor.capture.interface import Interface
from sensor.capture.program import Program, ProgramOptions
from sensor.capture.ring_set import RingSet
from sensor.config.settings import Settings
from sensor.live.worker import ENOUGH_BYTES, WAIT_MS
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.prefilter.plan import Plan
from sensor.rules.prefilter.tables import kernel_plan

PAGE_BYTES = 4096
"""BCC gives the size of buffers in pages."""
WAITING = 60_000
"""Records per CPU that wait in the ring at the start of a trial: less than half of a ring."""


class _RecordReader(Protocol):
    """A way to read the rings."""

    def read(self, timeout_ms: int) -> int:
        """Read the records that are there, or wait for some; return their number."""


class _SensorReader:
    """Our own rings and batches."""

    def __init__(self, program: Program, rings: RingSet) -> None:
        self._rings = rings
        program.connect(rings.rings)

    def read(self, timeout_ms: int) -> int:
        if timeout_ms and all(ring.waiting_bytes < ENOUGH_BYTES for ring in self._rings.rings):
            self._rings.wait(timeout_ms)
        return sum(map(len, self._rings.batches()))


class _BccReader:
    """BCC's perf buffer, with a callback that only counts."""

    def __init__(self, program: Program, size_bytes: int) -> None:
        self._bpf = program.loaded.bpf
        self._count = 0
        self._bpf[b"frames"].open_perf_buffer(
            self._count_record, page_cnt=size_bytes // PAGE_BYTES, lost_cb=self._ignore_lost
        )

    def read(self, timeout_ms: int) -> int:
        before = self._count
        self._bpf.perf_buffer_poll(timeout_ms)
        return self._count - before

    def _count_record(self, _cpu: int, _data: int, _size: int) -> None:
        self._count += 1

    def _ignore_lost(self, _count: int) -> None:
        """Keep BCC from printing lost records, which the program counts itself."""


def measure_reading(
    generator: FrameGenerator, mirror: Interface, effort: RingEffort, step: Step
) -> dict[str, Any]:
    """Measure both readers with rings of the same size."""
    size_bytes = Settings().ring_mib << 20
    plan, options = kernel_plan(Plan.pass_all(), RFC9110), ProgramOptions(action="drop")
    with ExitStack() as stack:
        ours_program = stack.enter_context(closing(Program(plan, options)))
        bcc_program = stack.enter_context(closing(Program(plan, options)))
        rings = stack.enter_context(closing(RingSet.open(size_bytes)))
        ours, bcc = _SensorReader(ours_program, rings), _BccReader(bcc_program, size_bytes)
        readers: tuple[tuple[Program, _RecordReader], ...] = ((ours_program, ours), (bcc_program, bcc))
        step("reading records that wait, with our reader and BCC's in turn")
        costs: list[list[float]] = [[], []]
        for _ in range(effort.repeats * 3):
            for cost, (program, reader) in zip(costs, readers, strict=True):
                with attached(program.fd, mirror, "native"):
                    cost.append(_cost_us(generator, program, reader, WAITING))
        live = []
        for name, (program, reader) in zip(("sensor", "bcc"), readers, strict=True):
            step(f"reading while frames arrive, with the reader of {name}")
            with attached(program.fd, mirror, "native"):
                trials = [_read_live(generator, program, reader, effort) for _ in range(effort.repeats)]
            live.append(_live_row(name, trials))
    ours_us, bcc_us = costs
    return {
        "records_waiting": WAITING,
        "cpu_us_a_record": figure(ours_us, 3),
        "bcc_cpu_us_a_record": figure(bcc_us, 3),
        "ratio_to_bcc": figure([own / baseline for own, baseline in zip(ours_us, bcc_us, strict=True)], 3),
        "live": live,
    }


def _cost_us(generator: FrameGenerator, program: Program, reader: _RecordReader, count: int) -> float:
    """Let ``count`` records gather on each CPU, read them, and return the CPU time per record."""
    before = program.counters()[Counter.SUBMITTED][0]
    run_until_settled(program, generator.send(count), lambda: None)
    expected = program.counters()[Counter.SUBMITTED][0] - before
    start_s, read = time.thread_time(), 0
    while read < expected:
        read += reader.read(0)
    return (time.thread_time() - start_s) / read * 1e6


class _LiveReading(NamedTuple):
    offered_per_second: float
    delivered_per_second: float
    sent: int
    seen: int
    read: int
    lost: int
    cpu_us: float


def _read_live(
    generator: FrameGenerator, program: Program, reader: _RecordReader, effort: RingEffort
) -> _LiveReading:
    """Read while the generator sends as fast as it can."""
    count = int(effort.seconds * 1_000_000)  # from each CPU
    before = program.counters()
    start_s, cpu_s, read = time.monotonic(), time.thread_time(), 0

    def read_some() -> None:
        nonlocal read
        read += reader.read(WAIT_MS)

    sending = generator.send(count)
    run_until_settled(program, sending, read_some)
    after = program.counters()
    while read < after[Counter.SUBMITTED][0] - before[Counter.SUBMITTED][0]:
        read_some()
    duration_s = time.monotonic() - start_s
    cpu_us = (time.thread_time() - cpu_s) / read * 1e6
    seen, lost = (after[counter][0] - before[counter][0] for counter in (Counter.SEEN, Counter.SUBMIT_FAILED))
    sent = count * len(sending)
    offered = sent / max(sender.result() for sender in sending)
    return _LiveReading(offered, read / duration_s, sent, seen, read, lost, cpu_us)


def _live_row(name: str, trials: list[_LiveReading]) -> dict[str, Any]:
    return {
        "reader": name,
        "offered_per_second": figure([trial.offered_per_second for trial in trials], 0),
        "delivered_per_second": figure([trial.delivered_per_second for trial in trials], 0),
        "sent": sum(trial.sent for trial in trials),
        "seen": sum(trial.seen for trial in trials),
        "read": sum(trial.read for trial in trials),
        "lost": sum(trial.lost for trial in trials),
        "cpu_us_a_record": figure([trial.cpu_us for trial in trials], 3),
    }
