"""The kernel's memory of recent frames: its maps, one pair per CPU, and how far back it reaches.

Runs in the supervisor. ``bpf/history.h`` describes the memory; `sensor.native.frame_history` reads it.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from sensor import abi
from sensor.capture import maps
from sensor.capture.cpus import possible_cpus
from sensor.capture.kernel_structs import BPF_F_MMAPABLE, BPF_MAP_TYPE_ARRAY
from sensor.capture.syscalls import xdp_load
from sensor.errors import KernelError

_LEAST_CHUNKS = 2
_CHUNKS_A_MIB = (1 << 20) // abi.HISTORY_CHUNK_BYTES
_XDP_LOAD_BYTES = 189


def is_supported() -> bool:
    """Return True if the kernel has ``bpf_xdp_load_bytes`` (Linux 5.18)."""

    def instruction(code: int, registers: int, number: int) -> bytes:
        return struct.pack("<BBhi", code, registers, 0, number)

    code = (
        instruction(0xB7, 2, 0)  # r2 = 0: offset
        + instruction(0xBF, 0xA3, 0)  # r3 = r10
        + instruction(0x07, 3, -8)  # r3 -= 8: to the stack
        + instruction(0xB7, 4, 8)  # r4 = 8: bytes
        + instruction(0x85, 0, _XDP_LOAD_BYTES)
        + instruction(0xB7, 0, 2)  # r0 = XDP_PASS
        + instruction(0x95, 0, 0)
    )
    try:
        os.close(xdp_load("history_probe", code, 0))
    except OSError as error:
        if error.errno == errno.EPERM:
            raise
        return False
    return True


class CpuHistory(NamedTuple):
    """The history of one CPU, mapped read-only."""

    cpu: int
    chunks: mmap.mmap
    """An array of `abi.HISTORY_CHUNK`."""
    heads: mmap.mmap
    """An `abi.HISTORY_HEADS`."""

    def reach_s(self) -> float:
        """Return the age of the oldest frame in seconds; 0 without a frame."""
        position = int.from_bytes(self.heads[:8], "little")
        if not position:
            return 0.0
        chunks = np.frombuffer(self.chunks, abi.HISTORY_CHUNK)
        used = chunks["number"] > 0
        return max(0.0, (time.monotonic_ns() - int(chunks["first_ktime_ns"][used].min())) / 1e9)


class KernelHistory:
    """The histories of all CPUs that have one."""

    def __init__(self, mib: int) -> None:
        """Create the maps, for ``mib`` MiB per CPU; no CPU has a history yet.

        Raises:
            OSError: The kernel refused.
        """
        self.chunks = max(_LEAST_CHUNKS, mib * _CHUNKS_A_MIB)
        self._fds: dict[int, tuple[int, int]] = {}
        self._own: dict[int, CpuHistory] = {}
        """Mappings of this process."""
        model = self._create()
        try:
            self.chunks_fd = maps.create_array_of_maps("history_chunks", model[0], possible_cpus())
            self.heads_fd = maps.create_array_of_maps("history_heads", model[1], possible_cpus())
        finally:
            for fd in model:
                os.close(fd)

    def _create(self) -> tuple[int, int]:
        """Create the maps of one CPU."""
        chunks_fd = maps.create_array(
            "chunks", BPF_MAP_TYPE_ARRAY, abi.HISTORY_CHUNK, self.chunks, BPF_F_MMAPABLE
        )
        try:
            heads = maps.create_array("heads", BPF_MAP_TYPE_ARRAY, abi.HISTORY_HEADS, 1, BPF_F_MMAPABLE)
        except OSError:
            os.close(chunks_fd)
            raise
        return chunks_fd, heads

    def add(self, cpus: Iterable[int]) -> None:
        """Give these CPUs a history.

        Raises:
            KernelError: The kernel has no memory for it.
        """
        for cpu in cpus:
            if cpu in self._fds:
                continue
            try:
                self._fds[cpu] = self._added(cpu)
            except OSError as error:
                raise KernelError(
                    f"CPU {cpu}: no memory for a history of {self.size_bytes >> 20} MiB ({error.strerror}); "
                    "lower the setting history_mib"
                ) from error

    def _added(self, cpu: int) -> tuple[int, int]:
        """Create the maps of a CPU, and let the program find them."""
        with ExitStack() as undo:
            fds = self._create()
            for fd in fds:
                undo.callback(os.close, fd)
            for outer, inner in zip((self.chunks_fd, self.heads_fd), fds, strict=True):
                maps.update(outer, np.array([cpu], np.uint32), np.array([inner], np.uint32))
            undo.pop_all()
        return fds

    @property
    def size_bytes(self) -> int:
        """Memory of the frames of one CPU."""
        return self.chunks * abi.HISTORY_CHUNK_BYTES

    def mapped(self) -> list[CpuHistory]:
        """Map every history into this process, read-only."""
        return [
            CpuHistory(
                cpu,
                mmap.mmap(chunks, self.size_bytes, prot=mmap.PROT_READ),
                mmap.mmap(heads, _page_bytes(abi.HISTORY_HEADS.itemsize), prot=mmap.PROT_READ),
            )
            for cpu, (chunks, heads) in sorted(self._fds.items())
        ]

    def reach_s(self) -> float:
        """Return how far the history reaches back, on the CPU with frames where it is least."""
        if len(self._own) < len(self._fds):
            self._own = {one.cpu: one for one in self.mapped()}
        reaches_s = [reach_s for one in self._own.values() if (reach_s := one.reach_s())]
        return min(reaches_s, default=0.0)

    def memory_bytes(self) -> int:
        """Return the memory of all histories."""
        return sum(maps.memory_bytes(fd) for fds in self._fds.values() for fd in fds)

    def close(self) -> None:
        """Close the maps. The kernel keeps them as long as a program uses them."""
        for fds in self._fds.values():
            for fd in fds:
                os.close(fd)
        os.close(self.chunks_fd)
        os.close(self.heads_fd)


def _page_bytes(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
