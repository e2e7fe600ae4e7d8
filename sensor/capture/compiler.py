"""The compiler of the kernel program: the only module that imports BCC. Runs in the supervisor."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sensor.errors import KernelError

_PACKAGED = Path(__file__).parents[1] / "_bpf"
_SOURCE = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "bpf"


def compile_program(flags: Iterable[str]) -> Any:
    """Compile ``prefilter.c`` and create its own maps. Nothing is loaded yet.

    Args:
        flags: Further flags of the compiler, such as ``-DSNAPLEN=256``.

    Returns:
        BCC's object, with the program's code and maps. End it with `free`.

    Raises:
        KernelError: BCC is not installed, or the program could not be compiled.
    """
    text = (_SOURCE / "prefilter.c").read_bytes()
    try:
        return _import_bcc()(text=text, cflags=[f"-I{_SOURCE}", "-Wall", "-Werror", *flags])
    except KernelError:
        raise
    except Exception as error:
        raise load_error(error) from error


def free(bpf: Any) -> None:
    """Close what BCC has opened, and drop the reference that BCC keeps until the process ends."""
    bpf.cleanup()
    atexit.unregister(bpf.cleanup)


def definitions(values: Mapping[str, object]) -> list[str]:
    """Return the compiler's flags that define macros, from a value for each name."""
    return [f"-D{name}={value}" for name, value in values.items()]


def load_error(reason: object) -> KernelError:
    """Return the error for a program or a map that BCC or the kernel refused."""
    return KernelError(
        f"the kernel program could not be loaded ({reason}); "
        "sensor needs Linux 5.15 or newer with eBPF enabled"
    )


def bcc_version() -> str:
    """Return the version of BCC.

    Raises:
        KernelError: BCC is not installed.
    """
    _import_bcc()
    from bcc.version import __version__

    return str(__version__)


def _import_bcc() -> Any:
    os.environ["BCC_KERNEL_SOURCE"] = str(_SOURCE)
    try:
        from bcc import BPF
    except ImportError as error:
        raise KernelError(
            "BCC for this Python is missing: apt install python3-bpfcc, and use an environment made with "
            "/usr/bin/python3 -m venv --system-site-packages"
        ) from error
    return BPF
