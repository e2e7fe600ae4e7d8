"""The time the kernel program spends per frame, beside xdp-filter. Runs in ``sensor bench kernel``, as root.

Every program runs over one frame again and again (``BPF_PROG_TEST_RUN``) and attaches to no interface.
Ours and xdp-filter take turns, so that other work on the machine slows both alike. Caches are warm: live
traffic costs more; the ratio is what counts. The counters prove that each frame was ignored for the reason
its kind names.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from sensor import abi
from sensor.bench.effort import Step
from sensor.bench.frame_choice import asked_for, ignored_kinds
from sensor.bench.frame_kinds import FrameKind, http_request
from sensor.bench.history_price import price
from sensor.bench.machine import figure, machine
from sensor.bench.prefilter_decisions import NOT_CONNECTED, default_program, frames_by_bucket
from sensor.bench.xdp_filter import ABSENT, xdp_filter
from sensor.capture.plan_maps import KernelPlan
from sensor.capture.program import Program, ProgramOptions, check_privileges
from sensor.capture.syscalls import prog_time_ns, xdp_load
from sensor.errors import SensorError

TABLES = (1 << 16, 1 << 18, 1 << 20)
"""Sizes of the flow table, in flows, whose memory is measured; the last is the default."""
_WARM_UP = 1000
_RETURN_PASS = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)


@dataclass(frozen=True)
class _Repeats:
    rounds: int
    runs: int
    """Runs in each round."""


@dataclass(frozen=True)
class _Programs:
    """The programs that are measured."""

    ours: Program
    unlimited: Program
    """Ours without a limit of packets per flow."""
    xdp_filter: int | None
    """None if it is not installed."""
    empty: int
    """A program that only returns."""


def measure(rules: Path, *, quick: bool, step: Step) -> dict[str, Any]:
    """Measure with a set of rules and the default profile.

    Raises:
        RulesError: a rule is wrong.
        PrivilegeError: root or a capability is missing.
        KernelError: the kernel refused a program or a map.
        SensorError: a frame did not end in the expected bucket.
    """
    check_privileges()
    repeats = _Repeats(5, 20_000) if quick else _Repeats(21, 100_000)
    where = machine()
    step("compiling the kernel program")
    plan, options = default_program(rules)
    with _loaded(plan, options) as programs:
        rows = []
        for kind in ignored_kinds(programs.unlimited):
            step(kind.name)
            rows.append(_kind_row(kind, programs, repeats))
        step("candidates")
        candidate_ns = _candidate_ns(programs, plan, repeats)
        empty_ns = _empty_ns(programs, repeats)
        map_bytes = programs.ours.memory_bytes()
    step("history")
    history = price(plan, options, repeats.rounds, repeats.runs)
    step("flow tables")
    ratios = [row["ratio_to_xdp_filter"] for row in rows if programs.xdp_filter is not None]
    return {
        "machine": where,
        "rounds": repeats.rounds,
        "runs_a_round": repeats.runs,
        "kinds": rows,
        "median_ns": median(row["ns"] for row in rows),
        "median_ratio_to_xdp_filter": round(median(ratios), 2) if ratios else None,
        "xdp_filter_absent": None if ratios else ABSENT,
        "empty_program_ns": empty_ns,
        "candidate_ns": candidate_ns,
        "history": history,
        "memory": {
            "flows": options.flows,
            "bytes": sum(map_bytes.values()),
            "maps": map_bytes,
            "bytes_by_flows": {str(flows): _map_bytes_with(plan, flows) for flows in TABLES},
        },
    }


@contextmanager
def _loaded(plan: KernelPlan, options: ProgramOptions) -> Iterator[_Programs]:
    """Load all programs, and unload them at the end."""
    with ExitStack() as stack:
        empty = xdp_load("empty", _RETURN_PASS, 0)
        stack.callback(os.close, empty)
        yield _Programs(
            stack.enter_context(closing(Program(plan, options))),
            stack.enter_context(closing(Program(plan, replace(options, depth=None)))),
            stack.enter_context(xdp_filter()),
            empty,
        )


def _kind_row(kind: FrameKind, programs: _Programs, repeats: _Repeats) -> dict[str, Any]:
    """Measure a kind of frame with our program and with xdp-filter."""
    ours = programs.unlimited if kind.is_first_of_flow else programs.ours
    bucket, ours_ns, baseline_ns = _alternate(ours, programs.xdp_filter, kind.frame, repeats)
    if bucket not in abi.IGNORED:
        raise SensorError(
            f"frames of kind {kind.name} are candidates with these rules; measure with other rules"
        )
    ratios = [own / baseline for own, baseline in zip(ours_ns, baseline_ns, strict=False)]
    return {
        "kind": kind.name,
        "bucket": bucket.name.lower(),
        "ns": median(ours_ns),
        "ns_spread": figure(ours_ns),
        "xdp_filter_ns": median(baseline_ns) if baseline_ns else None,
        "ratio_to_xdp_filter": round(median(ratios), 2) if ratios else None,
        "ratio_spread": figure(ratios) if ratios else None,
    }


def _candidate_ns(programs: _Programs, plan: KernelPlan, repeats: _Repeats) -> float:
    """Measure a candidate up to its submission, which fails as no ring is connected."""
    program, frame = asked_for(programs.ours, programs.unlimited, plan)
    bucket, candidate_ns, _ = _alternate(program, None, frame, repeats)
    if bucket is not NOT_CONNECTED:
        raise SensorError(f"a candidate was not submitted ({bucket.name.lower()}); measure again")
    return median(candidate_ns)


def _empty_ns(programs: _Programs, repeats: _Repeats) -> float:
    """Measure the empty program, whose time is part of every other figure."""
    frame = http_request()
    return median(float(prog_time_ns(programs.empty, frame, repeats.runs)) for _ in range(repeats.rounds))


def _alternate(
    ours: Program, baseline: int | None, frame: bytes, repeats: _Repeats
) -> tuple[abi.Counter, list[float], list[float]]:
    """Run both programs in turn.

    Returns the bucket of all our runs, and the nanoseconds per run of each round, ours and the baseline's.

    Raises:
        SensorError: the runs did not all end in one bucket.
    """
    prog_time_ns(ours.fd, frame, _WARM_UP)
    before = ours.counters()
    ours_ns, baseline_ns = [], []
    for _ in range(repeats.rounds):
        ours_ns.append(float(prog_time_ns(ours.fd, frame, repeats.runs)))
        if baseline is not None:
            baseline_ns.append(float(prog_time_ns(baseline, frame, repeats.runs)))
    buckets, runs = frames_by_bucket(ours, before), repeats.rounds * repeats.runs
    if len(buckets) != 1 or sum(buckets.values()) != runs:
        raise SensorError(
            f"{runs} identical frames ended in different buckets, {dict(buckets)}; measure again"
        )
    [bucket] = buckets
    return bucket, ours_ns, baseline_ns


def _map_bytes_with(plan: KernelPlan, flows: int) -> int:
    """Return the memory of all maps with a flow table of ``flows`` flows."""
    with closing(Program(plan, ProgramOptions(flows=flows))) as program:
        return sum(program.memory_bytes().values())
