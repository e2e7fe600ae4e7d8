"""A capture sent from inside the kernel, several times faster than from user space.

An XDP program is run with ``BPF_F_TEST_XDP_LIVE_FRAMES`` (Linux 5.18). Each run copies the next frame
from a map and redirects it out of an interface. Every loop over the capture has new addresses, so that
its flows are new; checksums are not updated. VLAN-tagged frames keep their addresses. Runs in
``sensor bench replay --generator live``.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from sensor.bench.frame_generator import BURST_S, XDP_DROP, instruction
from sensor.bench.tcpreplay import Sent
from sensor.capture.attachment import find_interface
from sensor.capture.kernel_structs import BPF_MAP_TYPE_ARRAY
from sensor.capture.maps import create_array, fill
from sensor.capture.syscalls import prog_send, xdp_load
from sensor.files.capture_file import CaptureFile

FASTEST = 1_000_000
"""Approximate frames per second without a pace, from which the length of a trial in frames follows."""

_DATA_BYTES = 4096
_POSITION = np.dtype(np.uint64)
_VALUE = np.dtype([("size", "<u8"), ("data", "u1", _DATA_BYTES)])
_LOOK_UP, _REDIRECT, _ADJUST_TAIL, _LENGTH, _STORE = 1, 23, 65, 188, 190  # bpf-helpers(7)
_HEADERS = 54  # Ethernet and IPv6
_IPV4, _IPV6 = 0x0008, 0xDD86  # ethertypes as a little-endian machine loads them
_ADDRESSES = {_IPV4: (26, 30), _IPV6: (22, 38)}  # offsets of the source's and the destination's first word


def _program(ifindex: int, position_fd: int, frames_fd: int, count: int) -> bytes:
    """Assemble the program (RFC 9669); r6 is the context, r7 the element, r8 the loop, r9 the length."""
    of = instruction
    code = [
        of(0xBF, 6, 1),
        of(0x62, 10, 0, -4, 0),  # key of the only element
        *_look_up(position_fd),
        of(0x79, 7, 0, 0),
        of(0xBF, 1, 7),
        of(0x07, 1, value=1),
        of(0x7B, 0, 1, 0),  # the next run sends the next frame
        of(0xBF, 8, 7),
        of(0x37, 8, value=count),  # r8 /= count
        of(0x97, 7, value=count),  # r7 %= count
        of(0x63, 10, 7, -4),
        *_look_up(frames_fd),
        of(0xBF, 7, 0),
        of(0x79, 9, 7, 0),
        of(0x57, 9, value=_DATA_BYTES - 1),
        *_or_drop(0x55, 9, 0),  # the length is not 0
        of(0xBF, 1, 6),
        of(0x85, value=_LENGTH),
        of(0xBF, 2, 9),
        of(0x1F, 2, 0),
        of(0xBF, 1, 6),
        of(0x85, value=_ADJUST_TAIL),
        *_or_drop(0x15, 0, 0),
        of(0xBF, 1, 6),
        of(0xB7, 2),
        of(0xBF, 3, 7),
        of(0x07, 3, value=8),
        of(0xBF, 4, 9),
        of(0x85, value=_STORE),
        *_or_drop(0x15, 0, 0),
    ]
    changes = [part for kind, offsets in _ADDRESSES.items() for part in _change_addresses(kind, offsets)]
    code += [
        of(0x61, 2, 6, 0),  # data
        of(0x61, 3, 6, 4),  # data_end
        of(0xBF, 4, 2),
        of(0x07, 4, value=_HEADERS),
        of(0x2D, 4, 3, len(changes) + 1),  # too short for addresses
        of(0x69, 5, 2, 12),
        *changes,
        of(0xB7, 1, value=ifindex),
        of(0xB7, 2),
        of(0x85, value=_REDIRECT),
        of(0x95),
    ]
    return b"".join(code)


def _look_up(map_fd: int) -> Iterator[bytes]:
    """Load the element whose number is on the stack into r0."""
    of = instruction
    yield of(0x18, 1, 1, value=map_fd)
    yield of(0)
    yield of(0xBF, 2, 10)
    yield of(0x07, 2, value=-4)
    yield of(0x85, value=_LOOK_UP)
    yield from _or_drop(0x55, 0, 0)


def _or_drop(jump: int, register: int, value: int) -> Iterator[bytes]:
    """Drop the frame unless the comparison holds."""
    yield instruction(jump, register, 0, 2, value)
    yield instruction(0xB7, 0, value=XDP_DROP)
    yield instruction(0x95)


def _change_addresses(ethertype: int, offsets: tuple[int, int]) -> list[bytes]:
    """Change both addresses the same way if r5 is the ethertype, so that both directions stay one flow."""
    of = instruction
    steps = [
        step
        for offset in offsets
        for step in (of(0x61, 1, 2, offset), of(0xAF, 1, 8), of(0x63, 2, 1, offset))
    ]
    return [of(0x55, 5, 0, len(steps), ethertype), *steps]


class KernelSender:
    """Sends each share of a capture from a CPU of its own, in the calling thread's network namespace."""

    name = "live"
    most_frames = 20_000
    """Frames of a capture that are sent, over and over: each needs a page of kernel memory."""

    def __init__(self, interface: str, shares: Sequence[Path], _share_frames: Sequence[int]) -> None:
        """Read the frames of each share."""
        self._ifindex = find_interface(interface).index
        self._shares = [_frames(path) for path in shares]

    def send(self, cpus: Sequence[int], seconds: float | None, per_second: float | None) -> Sent:
        """Send for about ``seconds``, or each share once if None; at most at ``per_second`` in total."""
        total = sum(map(len, self._shares))
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(len(cpus)))
            results = []
            for frames, cpu in zip(self._shares, cpus, strict=True):
                share = len(frames) / total
                pace = per_second * share if per_second else None
                count = len(frames) if seconds is None else math.ceil(seconds * (pace or FASTEST * share))
                fd = self._load(frames, stack)
                results.append((threads.submit(_send, fd, cpu, frames, count, pace), count, frames))
            octets = sum(count * sum(map(len, frames)) // len(frames) for _, count, frames in results)
            duration_s = max(result.result() for result, _, _ in results)
        return Sent(sum(count for _, count, _ in results), octets, duration_s)

    def _load(self, frames: list[bytes], stack: ExitStack) -> int:
        values = np.zeros(len(frames), _VALUE)
        for value, frame in zip(values, frames, strict=True):
            value["size"] = len(frame)
            value["data"][: len(frame)] = np.frombuffer(frame, np.uint8)
        position_fd = create_array("position", BPF_MAP_TYPE_ARRAY, _POSITION, 1)
        stack.callback(os.close, position_fd)
        frames_fd = create_array("frames", BPF_MAP_TYPE_ARRAY, _VALUE, len(frames))
        stack.callback(os.close, frames_fd)
        fill(frames_fd, values)
        fd = xdp_load("send", _program(self._ifindex, position_fd, frames_fd, len(frames)), 0)
        stack.callback(os.close, fd)
        return fd


def _frames(path: Path) -> list[bytes]:
    with CaptureFile(path) as file:
        return [
            bytes(batch.buffer[start : start + caplen])
            for batch in file.batches()
            for start, caplen in zip(batch.start.tolist(), batch.caplen.tolist(), strict=True)
        ]


def _send(fd: int, cpu: int, frames: list[bytes], count: int, per_second: float | None) -> float:
    """Send ``count`` frames from one CPU, and return the seconds this took."""
    os.sched_setaffinity(0, {cpu})  # applies to this thread alone
    longest = max(frames, key=len)
    start_s, sent = time.monotonic(), 0
    burst = count if per_second is None else max(1, int(per_second * BURST_S))
    while sent < count:
        size = min(burst, count - sent)
        prog_send(fd, longest, size)
        sent += size
        if per_second is not None:
            time.sleep(max(0.0, start_s + sent / per_second - time.monotonic()))
    return time.monotonic() - start_s
