"""The frames that ``sensor bench kernel`` measures: those that the rules ignore, and one that they ask for.

Most rules ignore TLS and ask for HTTP. For rules that do not, other payloads are tried.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from sensor import abi
from sensor.bench.frame_kinds import BULK_BYTES, WEB_PORT, FrameKind, frame_kinds, http_request
from sensor.bench.prefilter_decisions import NOT_CONNECTED, frames_by_bucket
from sensor.bench.probe_frames import ipv4, tcp, tls_application_data, udp
from sensor.capture.plan_maps import KernelPlan
from sensor.capture.program import Program
from sensor.capture.syscalls import prog_test_run
from sensor.errors import SensorError
from sensor.protocols import TCP, UDP

_BULKS = 64
"""Payloads that are tried."""
_PREFIXES = 1024
"""Prefixes of the plan that are tried."""


def ignored_kinds(unlimited: Program) -> list[FrameKind]:
    """Return the kinds of frames, with a payload that a program without a limit per flow ignores.

    Raises:
        SensorError: The rules ask for each of the payloads that are tried.
    """
    for bulk in _bulks():
        kinds = frame_kinds(bulk)
        if _candidate(unlimited, kinds) is None:
            return kinds
    kind = _candidate(unlimited, frame_kinds(tls_application_data(BULK_BYTES)))
    assert kind  # noqa: S101 - it was the first one tried
    raise SensorError(f"frames of kind {kind.name} are candidates with these rules; measure with other rules")


def asked_for(ours: Program, unlimited: Program, plan: KernelPlan) -> tuple[Program, bytes]:
    """Return a frame that is a candidate however often it comes, and the program that says so.

    That is an HTTP request, or else, without a limit per flow, a frame with a prefix of the plan.

    Raises:
        SensorError: No such frame is found.
    """
    if _bucket(ours, http_request()) is NOT_CONNECTED:
        return ours, http_request()
    for value, _, length, _ in plan.prefixes[:_PREFIXES].tolist():
        payload = value.to_bytes(8, "little").ljust(max(length, 64), b"x")
        for frame in (ipv4(TCP, tcp(payload, WEB_PORT)), ipv4(UDP, udp(payload, WEB_PORT))):
            if _bucket(unlimited, frame) is NOT_CONNECTED:
                return unlimited, frame
    raise SensorError("no candidate is found for these rules; measure with other rules")


def _bulks() -> Iterator[bytes]:
    yield tls_application_data(BULK_BYTES)
    for seed in range(1, _BULKS):
        yield random.Random(seed).randbytes(BULK_BYTES)  # noqa: S311


def _candidate(unlimited: Program, kinds: list[FrameKind]) -> FrameKind | None:
    """Return the first kind that the rules ask for, of those that are ignored from the first frame on."""
    first = (kind for kind in kinds if kind.is_first_of_flow)
    return next((kind for kind in first if _bucket(unlimited, kind.frame) not in abi.IGNORED), None)


def _bucket(program: Program, frame: bytes) -> abi.Counter:
    before = program.counters()
    prog_test_run(program.fd, frame)
    [bucket] = frames_by_bucket(program, before)
    return bucket
