"""Candidates from the kernel to Python, by our rings and by BCC; a part of ``sensor bench ring``.

The CPU time of a record is measured twice: of records that wait in the ring, which meets both
readers with the same work and nothing beside it, and of records that arrive meanwhile.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from typing import Any, NamedTuple, Protocol

from sensor.abi import Counter
from sensor.bench.effort import Effort, Step
from sensor.bench.frame_generator import Generator, settle
from sensor.bench.machine import figure
from sensor.capture.attachment import attached
from sensor.capture.interface import Interface
from sensor.capture.program import Options, Program
from sensor.capture.ring import RingSet
from sensor.config.settings import Settings
from sensor.live.worker import ENOUGH_BYTES, WAIT_MS
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.prefilter.emit import kernel_plan
from sensor.rules.prefilter.plan import Plan

PAGE_BYTES = 4096
"""What BCC counts its buffers in."""
WAITING = 60_000
"""Records of each CPU in a trial in which none arrive: less than half of a ring."""


class _Reader(Protocol):
    """One way to read the rings."""

    def read(self, timeout_ms: int) -> int:
        """Read what is there, or wait for some; how many records."""


class _Ours:
    """Our own rings and batches."""

    def __init__(self, program: Program, rings: RingSet) -> None:
        self._rings = rings
        program.connect(rings.rings)

    def read(self, timeout_ms: int) -> int:
        if timeout_ms and all(ring.waiting_bytes < ENOUGH_BYTES for ring in self._rings.rings):
            self._rings.wait(timeout_ms)
        return sum(map(len, self._rings.batches()))


class _Bcc:
    """BCC's perf buffer with the least that its callback can do."""

    def __init__(self, program: Program, size_bytes: int) -> None:
        self._bpf = program.generation.bpf
        self._count = 0
        self._bpf[b"frames"].open_perf_buffer(
            self._note, page_cnt=size_bytes // PAGE_BYTES, lost_cb=self._lost
        )

    def read(self, timeout_ms: int) -> int:
        before = self._count
        self._bpf.perf_buffer_poll(timeout_ms)
        return self._count - before

    def _note(self, _cpu: int, _data: int, _size: int) -> None:
        self._count += 1

    def _lost(self, _count: int) -> None:
        """Only so that BCC does not print them: the program counts what it could not submit."""


def measure_reading(generator: Generator, mirror: Interface, effort: Effort, step: Step) -> dict[str, Any]:
    """Measure both readers with rings of the same size."""
    size_bytes = Settings().ring_mib << 20
    plan, options = kernel_plan(Plan.pass_all(), RFC9110), Options(action="drop")
    with ExitStack() as stack:
        ours_program = stack.enter_context(closing(Program(plan, options)))
        bcc_program = stack.enter_context(closing(Program(plan, options)))
        rings = stack.enter_context(closing(RingSet.open(size_bytes)))
        ours, bcc = _Ours(ours_program, rings), _Bcc(bcc_program, size_bytes)
        step("reading what waits in the rings, ours and BCC's in turn")
        with_both: tuple[tuple[Program, _Reader], ...] = ((ours_program, ours), (bcc_program, bcc))
        costs: list[list[float]] = [[], []]
        for _ in range(effort.repeats * 3):
            for cost, (program, reader) in zip(costs, with_both, strict=True):
                with attached(program.fd, mirror, "native"):
                    cost.append(_cost_us(generator, program, reader, WAITING))
        live = []
        for name, (program, reader) in zip(("sensor", "bcc"), with_both, strict=True):
            step(f"reading while frames arrive: {name}")
            with attached(program.fd, mirror, "native"):
                trials = [_read_live(generator, program, reader, effort) for _ in range(effort.repeats)]
            live.append(_live_row(name, trials))
    ours_us, bcc_us = costs
    return {
        "records_waiting": WAITING,
        "cpu_us_a_record": figure(ours_us, 3),
        "bcc_cpu_us_a_record": figure(bcc_us, 3),
        "ratio_to_bcc": figure([mine / its for mine, its in zip(ours_us, bcc_us, strict=True)], 3),
        "live": live,
    }


def _cost_us(generator: Generator, program: Program, reader: _Reader, count: int) -> float:
    """Let so many records of each CPU gather, then read them; the CPU time of one."""
    before = program.counters()[Counter.SUBMITTED][0]
    settle(program, generator.send(count), lambda: None)
    expected = program.counters()[Counter.SUBMITTED][0] - before
    start_s, read = time.thread_time(), 0
    while read < expected:
        read += reader.read(0)
    return (time.thread_time() - start_s) / read * 1e6


class _Live(NamedTuple):
    offered_per_second: float
    delivered_per_second: float
    sent: int
    seen: int
    read: int
    lost: int
    cpu_us: float


def _read_live(generator: Generator, program: Program, reader: _Reader, effort: Effort) -> _Live:
    """Read while the generator sends as fast as it can."""
    count = int(effort.seconds * 1_000_000)  # from each CPU
    before = program.counters()
    start_s, cpu_s, read = time.monotonic(), time.thread_time(), 0

    def take() -> None:
        nonlocal read
        read += reader.read(WAIT_MS)

    sending = generator.send(count)
    settle(program, sending, take)
    after = program.counters()
    while read < after[Counter.SUBMITTED][0] - before[Counter.SUBMITTED][0]:
        take()
    took_s = time.monotonic() - start_s
    cpu_us = (time.thread_time() - cpu_s) / read * 1e6
    seen, lost = (after[one][0] - before[one][0] for one in (Counter.SEEN, Counter.SUBMIT_FAILED))
    sent = count * len(sending)
    offered = sent / max(one.result() for one in sending)
    return _Live(offered, read / took_s, sent, seen, read, lost, cpu_us)


def _live_row(name: str, trials: list[_Live]) -> dict[str, Any]:
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
