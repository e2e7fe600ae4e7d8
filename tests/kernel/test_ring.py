"""Frames through XDP and the mapped rings: whole, in order, in time, and all accounted for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest
from live import PASS_ALL

from sensor.abi import Counter
from sensor.capture.attachment import attached, find_interface
from sensor.capture.program import Options, Program
from sensor.capture.ring import RingSet

pytestmark = pytest.mark.kernel

SMALL_RING_BYTES = 1 << 16
MIB = 1 << 20

Open = Callable[..., tuple[Program, RingSet]]


@pytest.fixture
def open_capture(network: tuple[str, str]) -> Iterator[Open]:
    """Load, connect and attach with the given sizes; all is closed at the end."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def open_(size_bytes: int = MIB, **options: int) -> tuple[Program, RingSet]:
            program = stack.enter_context(closing(Program(PASS_ALL, Options(**options))))
            rings = stack.enter_context(closing(RingSet.open(size_bytes)))
            program.connect(rings.rings)
            stack.enter_context(attached(program.fd, find_interface(network[0]), "native"))
            return program, rings

        yield open_


@pytest.fixture
def send(network: tuple[str, str]) -> Iterator[Callable[[bytes], int]]:
    """Put a frame on the wire."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((network[1], 0))
        yield sender.send


def frame_of(number: int, size: int) -> bytes:
    """A frame of a protocol that the kernel does not know, so that it is a candidate whatever it holds."""
    head = b"\2" * 6 + b"\4" * 6 + b"\x12\x34" + number.to_bytes(4, "big")
    return head + bytes(number + i & 0xFF for i in range(size - len(head)))


def drain(rings: RingSet) -> list[bytes]:
    """Read until nothing is left; every frame as it was kept."""
    frames = []
    while rings.waiting():
        for batch in rings.batches():
            for start, caplen in zip(batch.start.tolist(), batch.caplen.tolist(), strict=True):
                frames.append(bytes(batch.buffer[start : start + caplen]))
    return frames


def wait_until_seen(program: Program, frames: int) -> None:
    """Return when the program has handled so many frames."""
    deadline = time.monotonic() + 10
    while program.counters()[Counter.SEEN][0] < frames:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def number_of(frame: bytes) -> int:
    """Which frame of the test this is."""
    return int.from_bytes(frame[14:18], "big")


def test_frames_arrive_whole_many_times_around_the_ring(
    open_capture: Open, send: Callable[[bytes], int]
) -> None:
    """Frames of every length come out as they went in, those over the ring's edge included."""
    program, rings = open_capture(SMALL_RING_BYTES)
    random = np.random.default_rng(3)
    sent, received = [], []
    for number in range(3000):
        frame = frame_of(number, int(random.integers(60, 1515)))
        sent.append(frame)
        send(frame)
        if number % 20 == 19:
            wait_until_seen(program, number + 1)
            received += drain(rings)
    assert sorted(received, key=number_of) == sent
    assert program.counters()[Counter.SUBMIT_FAILED] == (0, 0)


def test_lost_frames_are_counted(open_capture: Open, send: Callable[[bytes], int]) -> None:
    """Nobody reads: what does not fit is lost, and the sums still agree, in frames and in bytes."""
    program, rings = open_capture(SMALL_RING_BYTES)
    for number in range(500):
        send(frame_of(number, 1000))
    wait_until_seen(program, 500)
    counters = program.counters()
    waiting = rings.waiting()
    assert counters[Counter.SEEN] == (500, 500_000)
    assert counters[Counter.SUBMIT_FAILED][0] > 0
    assert counters[Counter.SUBMITTED][0] + counters[Counter.SUBMIT_FAILED][0] == 500
    assert waiting == counters[Counter.SUBMITTED][0] == len(drain(rings))


def test_snaplen_cuts_and_says_so(open_capture: Open, send: Callable[[bytes], int]) -> None:
    """No more than snaplen is kept of a frame, and the length on the wire is known."""
    program, rings = open_capture(snaplen=200)
    send(frame_of(1, 1000))
    send(frame_of(2, 100))
    wait_until_seen(program, 2)
    kept = [
        (caplen, wirelen)
        for batch in rings.batches()
        for caplen, wirelen in zip(batch.caplen.tolist(), batch.wirelen.tolist(), strict=True)
    ]
    assert kept == [(200, 1000), (100, 100)]


def test_timestamps_are_wall_time(
    open_capture: Open, send: Callable[[bytes], int], network: tuple[str, str]
) -> None:
    """A frame is stamped between the moments before and after it was sent, on the interface it came in by."""
    program, rings = open_capture()
    before_ns = time.time_ns()
    send(frame_of(1, 100))
    wait_until_seen(program, 1)
    after_ns = time.time_ns()
    margin_ns = 1_000_000  # the two clocks are tied together to within a few microseconds
    [(timestamp_ns, interface)] = [(b.timestamp_ns.item(), b.interface.item()) for b in rings.batches()]
    assert before_ns - margin_ns < timestamp_ns < after_ns + margin_ns
    assert interface == find_interface(network[0]).index


def test_a_zeroed_plan_passes(open_capture: Open, send: Callable[[bytes], int]) -> None:
    """The program ignores nothing that carries payload before it was told what the rules want."""
    program, rings = open_capture()
    udp = bytes.fromhex("0007000700090000") + b"x"
    ip = bytes.fromhex("4500001d00000000401100000a0000010a000002")
    send(b"\2" * 6 + b"\4" * 6 + b"\x08\x00" + ip + udp)
    wait_until_seen(program, 1)
    assert len(drain(rings)) == 1
