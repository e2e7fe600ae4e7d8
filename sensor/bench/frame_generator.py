"""One frame sent over and over from inside the kernel, several times faster than from user space.

A small XDP program is run with ``BPF_F_TEST_XDP_LIVE_FRAMES`` and redirects each frame out of an
interface. It writes a clock into the IPv4 source address, so that a flow has about ten frames at
most, and the CPU number into the source port. Runs in ``sensor bench ring``.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from sensor.abi import Counter
from sensor.capture.program import Program
from sensor.capture.syscalls import prog_send, xdp_load

BURST_S = 0.1
"""Length of a burst when a pace is set: each burst costs the kernel about ten milliseconds of preparation."""
SETTLED_S = 0.05
"""Time without a new frame after which the frames still missing count as lost."""

_CLOCK_SHIFT = 8
"""The address changes every 256 ns and repeats after 18 minutes."""
_SOURCE, _SPORT_LOW, _HEADERS = 26, 35, 42  # offsets in Ethernet, IPv4, UDP
_CPU, _CLOCK, _REDIRECT = 8, 5, 23  # helpers (bpf-helpers(7)): get_smp_processor_id, ktime_get_ns, redirect
XDP_DROP = 1


def instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Encode a BPF instruction (RFC 9669)."""
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


def _program(ifindex: int) -> bytes:
    """Assemble the program (RFC 9669); r6 is the context, r7 the CPU, r2 the frame, r3 its end."""
    of = instruction
    return b"".join(
        (
            of(0xBF, 6, 1),  # r6 = r1
            of(0x85, value=_CPU),
            of(0xBF, 7, 0),  # r7 = r0
            of(0x85, value=_CLOCK),
            of(0x77, 0, value=_CLOCK_SHIFT),  # r0 >>= shift
            of(0x61, 2, 6, 0),  # r2 = data
            of(0x61, 3, 6, 4),  # r3 = data_end
            of(0xBF, 4, 2),
            of(0x07, 4, value=_HEADERS),  # r4 = r2 + headers
            of(0x2D, 4, 3, 6),  # if r4 > r3, the frame is too short
            of(0x63, 2, 0, _SOURCE),
            of(0x73, 2, 7, _SPORT_LOW),
            of(0xB7, 1, value=ifindex),
            of(0xB7, 2),
            of(0x85, value=_REDIRECT),
            of(0x95),  # return the helper's verdict
            of(0xB7, 0, value=XDP_DROP),
            of(0x95),
        )
    )


class FrameGenerator:
    """Sends one frame over and over, from one thread pinned to each CPU.

    The frames leave in the network namespace of the thread that creates the generator.
    """

    def __init__(self, ifindex: int, frame: bytes, cpus: Sequence[int]) -> None:
        """Load the program; ``frame`` must have Ethernet, IPv4 and UDP headers."""
        self._fd = xdp_load("send", _program(ifindex), 0)
        self._frame, self._cpus = frame, cpus
        self._threads = ThreadPoolExecutor(len(cpus))

    def send(self, count: int, per_second: float | None = None) -> list[Future[float]]:
        """Start sending ``count`` frames from each CPU, at ``per_second`` in total or as fast as possible.

        The result of each future is the time sending took, in seconds.
        """
        pace = per_second / len(self._cpus) if per_second else None
        return [self._threads.submit(self._send, cpu, count, pace) for cpu in self._cpus]

    def _send(self, cpu: int, count: int, per_second: float | None) -> float:
        os.sched_setaffinity(0, {cpu})  # applies to this thread alone
        start_s = time.monotonic()
        burst = count if per_second is None else max(1, int(per_second * BURST_S))
        sent = 0
        while sent < count:
            size = min(burst, count - sent)
            prog_send(self._fd, self._frame, size)
            sent += size
            if per_second is not None:
                time.sleep(max(0.0, start_s + sent / per_second - time.monotonic()))
        return time.monotonic() - start_s

    def close(self) -> None:
        """Wait until sending has ended, and free the program."""
        self._threads.shutdown()
        os.close(self._fd)


def run_until_settled(program: Program, sending: list[Future[float]], work: Callable[[], None]) -> None:
    """Repeat ``work`` until everything is sent and no more frames arrive at the program."""
    while not all(sender.done() for sender in sending):
        work()
    for sender in sending:
        sender.result()
    seen, changed_s = -1, time.monotonic()
    while time.monotonic() - changed_s < SETTLED_S:
        work()
        now = program.counters()[Counter.SEEN][0]
        if now != seen:
            seen, changed_s = now, time.monotonic()
