"""The native code with AddressSanitizer and UndefinedBehaviorSanitizer, in place of the installed one.

A process has to start with the sanitiser's library loaded, so it is executed with `environment`. A fault in
the native code ends it with a report. Memory of numpy and of Python's own objects lies between guarded
bytes, so that reading one byte too much is noticed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path
from typing import Any

NATIVE = Path(__file__).parents[2] / "sensor" / "native"
FLAGS = ("-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_LIBRARY = "SENSOR_FUZZ_LIBRARY"


def build(directory: Path) -> Path:
    """Compile the native code into a library in this directory, and return its path."""
    target = directory / "batch.so"
    sources = sorted(NATIVE.glob("*.c"))
    subprocess.run(["cc", *FLAGS, "-shared", "-fPIC", "-o", target, *sources, "-lm"], check=True)
    return target


def environment(library: Path) -> dict[str, str]:
    """Return the environment of a process that uses a library of `build`."""
    # Hyperscan throws exceptions, which the sanitiser can pass on only if it knows the C++ library.
    preloaded = [_path_of("libasan.so"), _path_of("libstdc++.so.6")]
    return os.environ | {
        _LIBRARY: str(library),
        "LD_PRELOAD": " ".join(preloaded),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def _path_of(library: str) -> str:
    command = ["cc", f"-print-file-name={library}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def use() -> bool:
    """Let this process load the library that its environment names; return False if it names none.

    Call it before anything of `sensor.native` is imported.
    """
    library = os.environ.get(_LIBRARY)
    if library is None:
        return False
    load = ctypes.CDLL

    def load_sanitised(name: str | None, *arguments: Any, **options: Any) -> ctypes.CDLL:
        is_ours = name is not None and Path(name) == NATIVE / "batch.so"
        return load(library if is_ours else name, *arguments, **options)

    ctypes.CDLL = load_sanitised  # type: ignore[misc, assignment]
    return True
