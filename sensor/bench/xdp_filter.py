"""The baseline for the kernel program: xdp-filter of xdp-tools, loaded by libbpf; Debian packages both.

``xdpfilt_alw_all`` looks up a frame's MAC addresses, IP addresses and ports in its lists
(xdp-filter(8)). Runs in ``sensor bench kernel``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sensor.capture.kernel_structs import BPF_PROG_TYPE_XDP
from sensor.errors import KernelError

ABSENT = "xdp-filter is not installed: apt install xdp-tools"
_OBJECT = "bpf/xdpfilt_alw_all.o"
_LIBRARIES = Path("/usr/lib")
_LIBBPF = "libbpf.so.1"


@contextmanager
def xdp_filter() -> Iterator[int | None]:
    """Load the filter with empty lists, which allow everything; yield its fd, or None if not installed.

    Raises:
        KernelError: the kernel refused the program.
    """
    path = next(_LIBRARIES.glob(f"*/{_OBJECT}"), None)
    if path is None:
        yield None
        return
    libbpf = _libbpf()
    opened = ctypes.c_void_p(libbpf.bpf_object__open_file(bytes(path), None))
    if not opened:
        raise KernelError(f"{path} cannot be opened; reinstall it: apt install --reinstall xdp-tools")
    try:
        yield _load(libbpf, opened, path)
    finally:
        libbpf.bpf_object__close(opened)


def _libbpf() -> ctypes.CDLL:
    libbpf = ctypes.CDLL(_LIBBPF, use_errno=True)
    for name in ("bpf_object__open_file", "bpf_object__next_program", "bpf_object__next_map"):
        getattr(libbpf, name).restype = ctypes.c_void_p
    libbpf.libbpf_set_print(None)
    return libbpf


def _load(libbpf: ctypes.CDLL, opened: ctypes.c_void_p, path: Path) -> int:
    """Load the object's only program, without pinning its maps over those of a running xdp-filter."""
    found = ctypes.c_void_p(libbpf.bpf_object__next_map(opened, None))
    while found:
        libbpf.bpf_map__set_pin_path(found, None)
        found = ctypes.c_void_p(libbpf.bpf_object__next_map(opened, found))
    program = ctypes.c_void_p(libbpf.bpf_object__next_program(opened, None))
    libbpf.bpf_program__set_type(program, BPF_PROG_TYPE_XDP)
    if libbpf.bpf_object__load(opened):
        raise KernelError(f"the kernel refused {path}; to see why, run: xdp-filter load lo")
    return int(libbpf.bpf_program__fd(program))
