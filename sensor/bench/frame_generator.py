"""Traffic for measurements, sent inside the kernel: several times what a sender in user space reaches.

A small XDP program is run with ``BPF_F_TEST_XDP_LIVE_FRAMES`` and redirects each frame out of an
interface. It puts a clock into the IPv4 source address, so that no flow has more than some ten
frames, and the CPU into the source port.
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
"""Of what is sent at a set pace: each burst costs the kernel some ten milliseconds of preparation."""
SETTLED_S = 0.05
"""Frames that have not arrived so long after the last that did are not coming."""

_CLOCK_SHIFT = 8
"""The address changes every 256 ns, and comes again after 18 minutes."""
_SOURCE, _SPORT_LOW, _HEADERS = 26, 35, 42  # offsets in Ethernet, IPv4, UDP
_CPU, _CLOCK, _REDIRECT = 8, 5, 23  # helpers (bpf-helpers(7)): get_smp_processor_id, ktime_get_ns, redirect
XDP_DROP = 1


def instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Encode an instruction of BPF (RFC 9669)."""
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


def _program(ifindex: int) -> bytes:
    """Assemble it (RFC 9669); r6 is the context, r7 the CPU, r2 the frame, r3 its end."""
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
            of(0x2D, 4, 3, 6),  # if r4 > r3, it is too short
            of(0x63, 2, 0, _SOURCE),
            of(0x73, 2, 7, _SPORT_LOW),
            of(0xB7, 1, value=ifindex),
            of(0xB7, 2),
            of(0x85, value=_REDIRECT),
            of(0x95),  # return what the helper did
            of(0xB7, 0, value=XDP_DROP),
            of(0x95),
        )
    )


class Generator:
    """Sends one frame over and over, from threads that stay on their CPUs.

    They live in the network namespace of the thread that makes it.
    """

    def __init__(self, ifindex: int, frame: bytes, cpus: Sequence[int]) -> None:
        """Load the program; the frame has Ethernet, IPv4 and UDP headers."""
        self._fd = xdp_load("send", _program(ifindex), 0)
        self._frame, self._cpus = frame, cpus
        self._threads = ThreadPoolExecutor(len(cpus))

    def send(self, count: int, per_second: float | None = None) -> list[Future[float]]:
        """Begin to send so many frames from each CPU, as fast as it goes or at a pace for all of them.

        Each result is how many seconds it took.
        """
        pace = per_second / len(self._cpus) if per_second else None
        return [self._threads.submit(self._send, cpu, count, pace) for cpu in self._cpus]

    def _send(self, cpu: int, count: int, per_second: float | None) -> float:
        os.sched_setaffinity(0, {cpu})  # of this thread alone
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
        """Wait for what is being sent, and free the program."""
        self._threads.shutdown()
        os.close(self._fd)


def settle(program: Program, sending: list[Future[float]], meanwhile: Callable[[], None]) -> None:
    """Go on with something until all is sent, and the last frame that crosses the wire has crossed it."""
    while not all(one.done() for one in sending):
        meanwhile()
    for one in sending:
        one.result()
    seen, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < SETTLED_S:
        meanwhile()
        now = program.counters()[Counter.SEEN][0]
        if now != seen:
            seen, since_s = now, time.monotonic()
