"""Looking at other processes. A process that ends meanwhile counts as gone and is no error."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

TIMEOUT_S = 60


def wait_until(holds: Callable[[], object], every_s: float = 0.002) -> None:
    """Return as soon as ``holds`` returns something true; fail after `TIMEOUT_S`."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, "timed out waiting for a condition"
        time.sleep(every_s)


def is_running(pid: int) -> bool:
    """Return True if the process exists and is not a zombie."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def children(pid: int, name: str = "") -> list[int]:
    """Return the ids of the children of a process whose names start with ``name``."""
    return [child.pid for child in psutil.Process(pid).children() if name_of(child).startswith(name)]


def name_of(process: psutil.Process) -> str:
    """Return the name of a process, or an empty string if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def in_session(session: int) -> list[str]:
    """Return the command lines of all processes of a session."""
    return _commands(lambda pid: os.getsid(pid) == session)


def in_network(network: Path) -> list[str]:
    """Return the command lines of all processes in a network namespace."""
    return _commands(lambda pid: Path(f"/proc/{pid}/ns/net").readlink() == network)


def _commands(belongs: Callable[[int], bool]) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, OSError):
            if belongs(process.pid) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found
