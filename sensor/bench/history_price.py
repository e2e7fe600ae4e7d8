"""The price of the kernel's history: what frames cost more with it. Runs in ``sensor bench kernel``, as root.

The program without a history takes turns with one that remembers every frame of the flow, and with one whose
cut-off the flow has reached.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from statistics import median
from typing import Any

from sensor.bench.frame_kinds import WEB_PORT
from sensor.bench.probe_frames import ACK, ipv4, tcp, tls_application_data
from sensor.capture.cpus import online_cpus
from sensor.capture.history import is_supported
from sensor.capture.plan_maps import KernelPlan
from sensor.capture.program import Program, ProgramOptions
from sensor.capture.syscalls import prog_time_ns
from sensor.protocols import TCP

_NO_CUT_OFF_KIB = (1 << 22) - 1
_FRAMES = (64, 442, 1514)
_MIB = 64


def price(plan: KernelPlan, options: ProgramOptions, rounds: int, runs: int) -> list[dict[str, Any]]:
    """Return a row for each size of frame; empty if the kernel cannot keep a history.

    ``runs`` are those in each of the ``rounds``.
    """
    if not is_supported():
        return []
    with ExitStack() as stack:
        programs = [
            stack.enter_context(
                closing(Program(plan, replace(options, history_mib=mib, history_flow_kib=flow_kib)))
            )
            for mib, flow_kib in ((0, 1), (_MIB, _NO_CUT_OFF_KIB), (_MIB, 1))
        ]
        for program in programs:
            if program.history:
                program.history.add(online_cpus())
        return [_row(size, programs, rounds, runs) for size in _FRAMES]


def _row(size: int, programs: list[Program], rounds: int, runs: int) -> dict[str, Any]:
    frame = _frame(size)
    rows = [[prog_time_ns(program.fd, frame, runs) for program in programs] for _ in range(rounds)]
    off, kept, beyond = map(median, zip(*rows, strict=True))
    return {
        "frame_bytes": len(frame),
        "without_ns": off,
        "kept_ns_more": kept - off,
        "beyond_ns_more": beyond - off,
    }


def _frame(size: int) -> bytes:
    """Return a frame of a TLS connection, without payload if it is too small for one."""
    headers = len(ipv4(TCP, tcp(b"", WEB_PORT)))
    if size <= headers:
        return ipv4(TCP, tcp(b"", WEB_PORT, flags=ACK))
    return ipv4(TCP, tcp(tls_application_data(size)[: size - headers], WEB_PORT))
