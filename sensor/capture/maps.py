"""BPF maps as numpy sees them: create, look up, fill, measure; runs in the supervisor and in benchmarks.

By bpf(2) on a map's file descriptor; every call raises `OSError` with the kernel's errno.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensor.capture.syscalls import (
    BPF_MAP_CREATE,
    BPF_MAP_LOOKUP_ELEM,
    BPF_MAP_UPDATE_BATCH,
    BPF_MAP_UPDATE_ELEM,
    MapBatchAttr,
    MapCreateAttr,
    MapElementAttr,
    bpf,
)

Array = NDArray[Any]


def create_array(name: str, kind: int, value: np.dtype[Any], count: int, flags: int = 0) -> int:
    """Create a map of a kind of array, all zeroes; its file descriptor."""
    attr = MapCreateAttr(
        map_type=kind,
        key_size=4,
        value_size=value.itemsize,
        max_entries=count,
        map_flags=flags,
        map_name=name.encode(),
    )
    return bpf(BPF_MAP_CREATE, attr)


def look_up(fd: int, key: Array, value: np.dtype[Any], count: int = 1) -> Array | None:
    """Return the value of a key, shape (count,), or None where there is none.

    ``count`` is the number of possible CPUs where the map keeps a value for each: the kernel rounds
    these up to 8 bytes.
    """
    found = np.empty(count, value)
    try:
        bpf(BPF_MAP_LOOKUP_ELEM, MapElementAttr(fd, key=key.ctypes.data, value=found.ctypes.data))
    except FileNotFoundError:
        return None
    return found


def element(fd: int, value: np.dtype[Any], count: int = 1, *, index: int = 0) -> Array:
    """Return an element of an array map, shape (count,); see `look_up`."""
    found = look_up(fd, np.array([index], np.uint32), value, count)
    if found is None:
        raise FileNotFoundError(f"map {fd} is no array, or has no element {index}")
    return found


def update(fd: int, key: Array, value: Array) -> None:
    """Set the value of a key."""
    bpf(BPF_MAP_UPDATE_ELEM, MapElementAttr(fd, key=key.ctypes.data, value=value.ctypes.data))


def fill(fd: int, values: Array) -> None:
    """Set the elements of an array map, from the first on."""
    keys = np.arange(len(values), dtype=np.uint32)
    stored = np.ascontiguousarray(values)
    attr = MapBatchAttr(keys=keys.ctypes.data, values=stored.ctypes.data, count=len(stored), map_fd=fd)
    bpf(BPF_MAP_UPDATE_BATCH, attr)


def memory_bytes(fd: int) -> int:
    """Return what a map takes, as the kernel accounts for it (proc_pid_fdinfo)."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))


def possible_cpus() -> int:
    """Count the CPUs that maps keep values for (sysfs, cputopology)."""
    last = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    return int(last.rpartition("-")[2].rpartition(",")[2]) + 1
