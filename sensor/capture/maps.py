"""BPF maps with numpy arrays as keys and values: create, look up, update, measure.

Runs in the supervisor, in the exporter and in benchmarks. The functions call bpf(2) on a map's file
descriptor, and raise `OSError` with the kernel's errno.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensor.capture.kernel_structs import (
    BPF_MAP_CREATE,
    BPF_MAP_LOOKUP_ELEM,
    BPF_MAP_TYPE_ARRAY,
    BPF_MAP_TYPE_ARRAY_OF_MAPS,
    BPF_MAP_UPDATE_BATCH,
    BPF_MAP_UPDATE_ELEM,
    MapBatchAttr,
    MapCreateAttr,
    MapElementAttr,
)
from sensor.capture.syscalls import bpf

Array = NDArray[Any]


def create_array(name: str, kind: int, value: np.dtype[Any], count: int, flags: int = 0) -> int:
    """Create an array map of ``count`` zeroed values and return its file descriptor.

    ``kind`` is the map type, such as ``BPF_MAP_TYPE_ARRAY``.
    """
    attr = MapCreateAttr(
        map_type=kind,
        key_size=4,
        value_size=value.itemsize,
        max_entries=count,
        map_flags=flags,
        map_name=name.encode(),
    )
    return bpf(BPF_MAP_CREATE, attr)


def create_array_of_maps(name: str, inner_fd: int, count: int) -> int:
    """Create an array with room for ``count`` maps like the one given; return its file descriptor."""
    attr = MapCreateAttr(
        map_type=BPF_MAP_TYPE_ARRAY_OF_MAPS,
        key_size=4,
        value_size=4,
        max_entries=count,
        inner_map_fd=inner_fd,
        map_name=name.encode(),
    )
    return bpf(BPF_MAP_CREATE, attr)


def create_table(name: str, content: Array) -> int:
    """Create an array map whose single element is the whole of ``content``; return its file descriptor.

    Linux 5.15 limits an element to 4 MiB.
    """
    fd = create_array(name, BPF_MAP_TYPE_ARRAY, np.dtype((np.void, content.nbytes)), 1)
    try:
        update(fd, np.zeros(1, np.uint32), np.ascontiguousarray(content))
    except OSError:
        os.close(fd)
        raise
    return fd


def look_up(fd: int, key: Array, value: np.dtype[Any], count: int = 1) -> Array | None:
    """Return the value of a key, shape (count,), or None if the map does not have the key.

    For a per-CPU map, ``count`` is the number of possible CPUs, and the size of a value must be a multiple
    of 8 bytes, to which the kernel rounds it up.
    """
    found = np.empty(count, value)
    try:
        bpf(BPF_MAP_LOOKUP_ELEM, MapElementAttr(fd, key=key.ctypes.data, value=found.ctypes.data))
    except FileNotFoundError:
        return None
    return found


def element(fd: int, value: np.dtype[Any], count: int = 1, *, index: int = 0) -> Array:
    """Return an element of an array map, shape (count,), see `look_up`."""
    found = look_up(fd, np.array([index], np.uint32), value, count)
    if found is None:
        raise FileNotFoundError(f"map {fd} is not an array or has no element {index}")
    return found


def update(fd: int, key: Array, value: Array) -> None:
    """Set the value of a key."""
    bpf(BPF_MAP_UPDATE_ELEM, MapElementAttr(fd, key=key.ctypes.data, value=value.ctypes.data))


def fill(fd: int, values: Array) -> None:
    """Set the elements of an array map, starting with the first."""
    keys = np.arange(len(values), dtype=np.uint32)
    stored = np.ascontiguousarray(values)
    attr = MapBatchAttr(keys=keys.ctypes.data, values=stored.ctypes.data, count=len(stored), map_fd=fd)
    bpf(BPF_MAP_UPDATE_BATCH, attr)


def memory_bytes(fd: int) -> int:
    """Return the memory that the kernel accounts to a map (proc_pid_fdinfo)."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))
