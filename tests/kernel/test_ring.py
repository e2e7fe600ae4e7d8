"""Frames pass XDP and the mapped rings complete, with their time, and all are counted."""

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
from sensor.capture.program import Program, ProgramOptions
from sensor.capture.ring_set import RingSet

pytestmark = pytest.mark.kernel

SMALL_RING_BYTES = 1 << 16
MIB = 1 << 20

Open = Callable[..., tuple[Program, RingSet]]


@pytest.fixture
def open_capture(network: tuple[str, str]) -> Iterator[Open]:
    """Return a function that loads, connects and attaches a program; everything is closed at the end."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def open_(size_bytes: int = MIB, **options: int) -> tuple[Program, RingSet]:
            program = stack.enter_context(closing(Program(PASS_ALL, ProgramOptions(**options))))
            rings = stack.enter_context(closing(RingSet.open(size_bytes)))
            program.connect(rings.rings)
            stack.enter_context(attached(program.fd, find_interface(network[0]), "native"))
            return program, rings

        yield open_


@pytest.fixture
def send(network: tuple[str, str]) -> Iterator[Callable[[bytes], int]]:
    """Return a function that sends a frame."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((network[1], 0))
        yield sender.send


def frame_of(number: int, size: int) -> bytes:
    """Return a frame of an unknown ethertype, which is always a candidate."""
    head = b"\2" * 6 + b"\4" * 6 + b"\x12\x34" + number.to_bytes(4, "big")
    return head + bytes(number + i & 0xFF for i in range(size - len(head)))


def drain(rings: RingSet) -> list[bytes]:
    """Read all waiting frames, and return their captured bytes."""
    frames = []
    while rings.waiting():
        for batch in rings.batches():
            for start, caplen in zip(batch.start.tolist(), batch.caplen.tolist(), strict=True):
                frames.append(bytes(batch.buffer[start : start + caplen]))
    return frames


def wait_until_seen(program: Program, frames: int) -> None:
    """Wait until the program has handled a number of frames."""
    deadline = time.monotonic() + 10
    while program.counters()[Counter.SEEN][0] < frames:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def number_of(frame: bytes) -> int:
    """Return the number of a frame in the test."""
    return int.from_bytes(frame[14:18], "big")


def test_frames_arrive_complete_many_times_around_the_ring(
    open_capture: Open, send: Callable[[bytes], int]
) -> None:
    """Frames of every length arrive unchanged, also those that wrap around the end of the ring."""
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
    """Frames that do not fit into the ring are lost, and the sums still agree."""
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


def test_snaplen_truncates_frames(open_capture: Open, send: Callable[[bytes], int]) -> None:
    """A frame has at most snaplen bytes, and its length on the wire is known."""
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
    """The timestamp lies between the moments before and after sending; the interface is the receiving one."""
    program, rings = open_capture()
    before_ns = time.time_ns()
    send(frame_of(1, 100))
    wait_until_seen(program, 1)
    after_ns = time.time_ns()
    margin_ns = 1_000_000  # the two clocks agree within a few microseconds
    [(timestamp_ns, interface)] = [(b.timestamp_ns.item(), b.interface.item()) for b in rings.batches()]
    assert before_ns - margin_ns < timestamp_ns < after_ns + margin_ns
    assert interface == find_interface(network[0]).index


def test_a_zeroed_plan_passes(open_capture: Open, send: Callable[[bytes], int]) -> None:
    """Before it has a plan, the program ignores no frame with a payload."""
    program, rings = open_capture()
    udp = bytes.fromhex("0007000700090000") + b"x"
    ip = bytes.fromhex("4500001d00000000401100000a0000010a000002")
    send(b"\2" * 6 + b"\4" * 6 + b"\x08\x00" + ip + udp)
    wait_until_seen(program, 1)
    assert len(drain(rings)) == 1
