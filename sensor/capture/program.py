"""The kernel program: compile, fill maps, load, count; the only importer of BCC; runs in the supervisor."""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.capture.ring import PerfRing
from sensor.errors import KernelError, PrivilegeError

Action = Literal["pass", "drop"]

CAPLEN_MAX = 65472
"""A perf record counts its size in 16 bits: frame, metadata and headers together (perf_event.h)."""

_PACKAGED = Path(__file__).parents[1] / "_bpf"
_SOURCE = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "bpf"
_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 12, 21, 38, 39


def check_privileges() -> None:
    """Check for what loading and attaching needs, before anything is touched.

    Raises:
        PrivilegeError: Neither CAP_SYS_ADMIN nor all of CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are held.
    """
    status = Path("/proc/self/status").read_text()
    held = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    may_load = held >> _CAP_SYS_ADMIN & 1 or (held >> _CAP_BPF & 1 and held >> _CAP_PERFMON & 1)
    if not (may_load and held >> _CAP_NET_ADMIN & 1):
        raise PrivilegeError(
            "capturing needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN: run this with sudo"
        )


class Program:
    """The loaded prefilter and its maps."""

    def __init__(self, plan: NDArray[np.void], *, snaplen: int = CAPLEN_MAX, action: Action = "pass") -> None:
        """Compile, load, and fill the plan; nothing is attached yet.

        Raises:
            KernelError: BCC is not installed, or the kernel refused the program or a map.
        """
        bpf_class = _import_bcc()
        with suppress(ValueError, OSError):  # kernels before 5.11 charge maps to this limit
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        flags = [
            f"-I{_SOURCE}",
            f"-DSNAPLEN={min(snaplen, CAPLEN_MAX)}",
            f"-DACTION=XDP_{action.upper()}",
            "-Wall",
            "-Werror",
        ]
        try:
            self._bpf = bpf_class(src_file=str(_SOURCE / "prefilter.c").encode(), cflags=flags)
            self.fd: int = self._bpf.load_func(b"prefilter", bpf_class.XDP).fd
        except Exception as error:
            raise KernelError(
                f"the kernel program could not be loaded ({error}); "
                "sensor needs Linux 5.15 or newer with eBPF enabled"
            ) from error
        self._active = 0
        self.use_plan(plan)

    def use_plan(self, plan: NDArray[np.void]) -> None:
        """Put a plan, one `abi.PLAN`, in force: for every frame the old one holds, or the new one."""
        self._active = (self._active + 1) % abi.PLAN_COUNT
        plans, active = self._bpf[b"plans"], self._bpf[b"active_plan"]
        plans[ctypes.c_int(self._active)] = plans.Leaf.from_buffer_copy(plan.tobytes())
        active[ctypes.c_int(0)] = ctypes.c_uint32(self._active)

    def connect(self, ring: PerfRing) -> None:
        """Let the program submit to this ring on its CPU.

        Raises:
            KernelError: The kernel refused.
        """
        from bcc import libbcc

        key, value = ctypes.c_int(ring.cpu), ctypes.c_int(ring.fd)
        fd = self._bpf[b"frames"].map_fd
        if libbcc.lib.bpf_update_elem(fd, ctypes.byref(key), ctypes.byref(value), 0) != 0:
            error = os.strerror(ctypes.get_errno())
            raise KernelError(f"CPU {ring.cpu}: the perf ring could not be connected: {error}")

    def counters(self) -> dict[abi.Counter, tuple[int, int]]:
        """Frames and bytes of every bucket, summed over the CPUs."""
        table = self._bpf[b"counters"]
        totals = {}
        for counter in abi.Counter:
            per_cpu = table[ctypes.c_int(counter)]
            totals[counter] = (sum(v.frames for v in per_cpu), sum(v.bytes for v in per_cpu))
        return totals

    def close(self) -> None:
        """Free program and maps; they live on while an interface holds them."""
        self._bpf.cleanup()


def _import_bcc() -> Any:
    os.environ["BCC_KERNEL_SOURCE"] = str(_SOURCE)
    try:
        from bcc import BPF
    except ImportError as error:
        raise KernelError(
            "BCC for this Python is missing: apt install python3-bpfcc, and use an environment made by "
            "/usr/bin/python3 -m venv --system-site-packages"
        ) from error
    return BPF
