"""``sensor bench kernel``: what the kernel program spends on a frame; runs as root, attaches nothing.

Every program runs over one frame again and again (``BPF_PROG_TEST_RUN``), ours and xdp-filter's in
turn, so that what else is going on meets both. Caches are warm: figures of traffic are higher, the
ratio is what counts. That each frame ended where its kind says is checked on the counters.
"""

from __future__ import annotations

import os
import struct
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from sensor import abi
from sensor.bench import probe_frames
from sensor.bench.effort import Step
from sensor.bench.machine import figure, machine
from sensor.bench.xdp_filter import ABSENT, xdp_filter
from sensor.capture.program import KernelPlan, Options, Program, check_privileges
from sensor.capture.syscalls import prog_test_run, prog_time_ns, xdp_load
from sensor.config.settings import Settings
from sensor.errors import CaptureFileError, SensorError
from sensor.files.capture_file import CaptureFile
from sensor.live.supervisor import options_of
from sensor.model import LinkType
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.files.load import load_rules
from sensor.rules.prefilter.emit import kernel_plan
from sensor.rules.prefilter.plan import Plan, demands

TABLES = (1 << 16, 1 << 18, 1 << 20)
"""Flows whose tables are measured; the last is what is set unless told otherwise."""
BULK_BYTES = 1000
WEB, NO_RULES_PORT = 443, 47_000
_WARM_UP = 1000
_LONGEST_FRAME = 3500
"""About the most that the kernel lets a program of a single buffer run over."""
_RETURN_PASS = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)
_NOT_CONNECTED = abi.Counter.SUBMIT_FAILED
"""Where candidates end: no ring is connected."""


@dataclass(frozen=True)
class Kind:
    """A frame that the prefilter ignores."""

    name: str
    frame: bytes
    is_first_of_flow: bool = False
    """It is ignored for what it is, however few came before: runs without a limit of packets a flow."""


def kinds() -> list[Kind]:
    """Return what networks are full of."""
    bulk = probe_frames.sealed(BULK_BYTES)
    datagram = probe_frames.udp(probe_frames.sealed(BULK_BYTES)[5:], WEB)
    return [
        Kind("syn", probe_frames.ipv4(TCP, probe_frames.tcp(b"", WEB, flags=probe_frames.SYN))),
        Kind(
            "bare_ack",
            probe_frames.ipv4(TCP, probe_frames.tcp(b"", WEB, flags=probe_frames.ACK)),
        ),
        Kind(
            "other_port",
            probe_frames.ipv4(TCP, probe_frames.tcp(bulk, NO_RULES_PORT)),
            is_first_of_flow=True,
        ),
        Kind("cut_off_flow", probe_frames.ipv4(TCP, probe_frames.tcp(bulk, WEB))),
        Kind(
            "no_prefix",
            probe_frames.ipv4(TCP, probe_frames.tcp(bulk, WEB)),
            is_first_of_flow=True,
        ),
        Kind("vlan", probe_frames.ipv4(TCP, probe_frames.tcp(bulk, WEB), vlan=100)),
        Kind("ipv6", probe_frames.ipv6(TCP, probe_frames.tcp(bulk, WEB))),
        Kind("udp", probe_frames.ipv4(UDP, datagram), is_first_of_flow=True),
    ]


def candidate() -> bytes:
    """Return a frame that no limit keeps from being matched."""
    return probe_frames.ipv4(TCP, probe_frames.tcp(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", 80))


def measure(rules: Path, *, quick: bool, step: Step) -> dict[str, Any]:
    """Measure with these rules and the default profile; ``step`` is told what comes next.

    Raises:
        RulesError: A rule is wrong.
        PrivilegeError: Root or a capability is missing.
        KernelError: The kernel refused a program or a map.
        SensorError: A frame did not end where its kind says.
    """
    check_privileges()
    rounds, repeat = (5, 20_000) if quick else (21, 100_000)
    where = machine()
    step("compiling the kernel program")
    plan, options = _own(rules)
    with ExitStack() as stack:
        limited = stack.enter_context(closing(Program(plan, options)))
        unlimited = stack.enter_context(closing(Program(plan, replace(options, depth=None))))
        rival = stack.enter_context(xdp_filter())
        empty = xdp_load("empty", _RETURN_PASS, 0)
        stack.callback(os.close, empty)
        rows = []
        for kind in kinds():
            step(kind.name)
            program = unlimited if kind.is_first_of_flow else limited
            rows.append(_row(kind, program, rival, rounds, repeat))
        step("candidates")
        frame = candidate()
        bucket, candidates_ns, _ = _alternate(limited, None, frame, rounds, repeat)
        if bucket is not _NOT_CONNECTED:
            raise SensorError(f"an HTTP request ended as {bucket.name.lower()}; the rules ask for none")
        nothing_ns = [float(prog_time_ns(empty, frame, repeat)) for _ in range(rounds)]
        by_map = limited.memory_bytes()
    step("tables")
    ratios = [row["ratio_to_xdp_filter"] for row in rows if rival is not None]
    return {
        "machine": where,
        "rounds": rounds,
        "runs_a_round": repeat,
        "kinds": rows,
        "median_ns": median(row["ns"] for row in rows),
        "median_ratio_to_xdp_filter": round(median(ratios), 2) if ratios else None,
        "xdp_filter_absent": None if ratios else ABSENT,
        "empty_program_ns": median(nothing_ns),
        "candidate_ns": median(candidates_ns),
        "memory": {
            "flows": options.flows,
            "bytes": sum(by_map.values()),
            "maps": by_map,
            "bytes_by_flows": {str(flows): _table_bytes(flows) for flows in TABLES},
        },
    }


def _own(rules: Path) -> tuple[KernelPlan, Options]:
    """What `sensor run` gives the kernel unless told otherwise, these rules apart."""
    plan = kernel_plan(Plan.of(demands(load_rules(rules), RFC9110)), RFC9110)
    return plan, options_of(Settings(), frags=False)


def _row(kind: Kind, program: Program, rival: int | None, rounds: int, repeat: int) -> dict[str, Any]:
    bucket, ours_ns, rival_ns = _alternate(program, rival, kind.frame, rounds, repeat)
    if bucket not in abi.IGNORED:
        raise SensorError(f"frames of kind {kind.name} are candidates by these rules; measure with others")
    ratios = [ours / other for ours, other in zip(ours_ns, rival_ns, strict=False)]
    return {
        "kind": kind.name,
        "bucket": bucket.name.lower(),
        "ns": median(ours_ns),
        "ns_spread": figure(ours_ns),
        "xdp_filter_ns": median(rival_ns) if rival_ns else None,
        "ratio_to_xdp_filter": round(median(ratios), 2) if ratios else None,
        "ratio_spread": figure(ratios) if ratios else None,
    }


def _alternate(
    program: Program, rival: int | None, frame: bytes, rounds: int, repeat: int
) -> tuple[abi.Counter, list[float], list[float]]:
    """Run both in turn; where all of our runs ended, and nanoseconds a run of each round.

    Raises:
        SensorError: They did not all end in one bucket.
    """
    prog_time_ns(program.fd, frame, _WARM_UP)
    before = program.counters()
    ours_ns, rival_ns = [], []
    for _ in range(rounds):
        ours_ns.append(float(prog_time_ns(program.fd, frame, repeat)))
        if rival is not None:
            rival_ns.append(float(prog_time_ns(rival, frame, repeat)))
    ended = _ended(program, before)
    if len(ended) != 1 or sum(ended.values()) != rounds * repeat:
        raise SensorError(f"{rounds * repeat} equal frames ended as {dict(ended)}: measure again")
    [bucket] = ended
    return bucket, ours_ns, rival_ns


def _ended(program: Program, before: dict[abi.Counter, tuple[int, int]]) -> Tally[abi.Counter]:
    """Count the frames of each bucket since."""
    after = program.counters()
    ended = Tally({counter: after[counter][0] - before[counter][0] for counter in abi.Counter})
    del ended[abi.Counter.SEEN]
    return +ended


def _table_bytes(flows: int) -> int:
    """Return what all maps take with tables of so many flows."""
    plan = kernel_plan(Plan.pass_all(), RFC9110)
    with closing(Program(plan, Options(flows=flows))) as program:
        return sum(program.memory_bytes().values())


def judge(rules: Path, capture: Path) -> dict[str, Any]:
    """Run the program over a capture's frames in their order; how many reach Python, and why others do not.

    They come as fast as that goes: flows do not end by time.

    Raises:
        CaptureFileError: The file cannot be read, or its frames are not Ethernet.
        RulesError: A rule is wrong.
        PrivilegeError: Root or a capability is missing.
        KernelError: The kernel refused the program.
    """
    check_privileges()
    with CaptureFile(capture) as file, closing(Program(*_own(rules))) as program:
        before, too_long = program.counters(), 0
        for frame in _frames(file, capture):
            if len(frame) > _LONGEST_FRAME:
                too_long += 1
            else:
                prog_test_run(program.fd, frame)
        ended = _ended(program, before)
    total = sum(ended.values())
    candidates = ended.pop(_NOT_CONNECTED, 0) + ended.pop(abi.Counter.SUBMITTED, 0)
    return {
        "capture": str(capture),
        "frames": total,
        "candidates": candidates,
        "share": round(candidates / total, 4) if total else None,
        "ignored": {
            counter.name.removeprefix("IGNORED_").lower(): ended[counter] for counter in sorted(ended)
        },
        "too_long": too_long,
    }


def _frames(file: CaptureFile, path: Path) -> Iterator[bytes]:
    for batch in file.batches():
        if batch.linktype != LinkType.ETHERNET:
            raise CaptureFileError(f"{path}: link type {batch.linktype}; XDP sees Ethernet frames alone")
        for start, caplen in zip(batch.start.tolist(), batch.caplen.tolist(), strict=True):
            yield bytes(batch.buffer[start : start + caplen])
