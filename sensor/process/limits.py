"""Limits of what a process may use, which the kernel enforces (setrlimit(2), setitimer(2)).

Runs in the process that compiles rules.
"""

from __future__ import annotations

import resource
import signal
from contextlib import suppress
from pathlib import Path


def limit_cpu(seconds: int) -> None:
    """Let the kernel end this process with SIGXCPU after so many seconds of CPU time."""
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)


def limit_memory(extra_bytes: int) -> None:
    """Allow so much memory beyond what is in use, however it is mapped; requests for more fail."""
    _limit(resource.RLIMIT_AS, (memory_kib() << 10) + extra_bytes)


def limit_file_size(size: int) -> None:
    """Allow no file, in memory or on disk, to grow beyond ``size`` bytes."""
    _limit(resource.RLIMIT_FSIZE, size)


def limit_step(seconds: float) -> None:
    """Let the kernel end this process with SIGPROF after so much CPU time from now on; 0: never."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def end_first_without_memory() -> None:
    """Let the kernel end this process, and not another one, when the host runs out of memory (proc(5))."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def memory_kib() -> int:
    """Return the size of this process's address space."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    return pages * resource.getpagesize() >> 10


def _limit(what: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit; one that is lower already stays."""
    hard = soft if hard is None else hard
    _, before = resource.getrlimit(what)
    if before != resource.RLIM_INFINITY:
        hard = min(hard, before)
    resource.setrlimit(what, (min(soft, hard), hard))
