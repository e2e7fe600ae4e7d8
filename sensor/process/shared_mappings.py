"""Shared memory that a forked process inherits. Runs in the processes beside the supervisor.

Through it a process could write what others read: reports of other workers, figures, the index of the
evidence. Memory that is not shared is no danger, since a fork has a copy of it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Collection
from pathlib import Path

_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip


def unmap_all_but(addresses: Collection[int]) -> None:
    """Unmap all shared memory, except the mappings that contain one of the addresses.

    The addresses stay reserved: the objects that refer to them may still be deleted.

    Raises:
        OSError: The kernel refuses.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, modes, *_ = line.split()
        start, end = (int(word, 16) for word in span.split("-"))
        if not modes.endswith("s") or any(start <= address < end for address in addresses):
            continue
        if _libc.mmap(start, end - start, _PROT_NONE, flags, -1, 0) != start:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
