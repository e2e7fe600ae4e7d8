"""Other processes, as tests look at them: one that ends while it is looked at is gone, nothing worse."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

TIMEOUT_S = 60


def wait_until(holds: Callable[[], object], every_s: float = 0.002) -> None:
    """Return when that holds."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, "what was waited for did not come"
        time.sleep(every_s)


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than a zombie."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def children(pid: int, name: str = "") -> list[int]:
    """The ids of the children of a process whose names begin like that."""
    return [child.pid for child in psutil.Process(pid).children() if name_of(child).startswith(name)]


def name_of(process: psutil.Process) -> str:
    """Return what it is called, and nothing where it has ended meanwhile."""
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def in_session(session: int) -> list[str]:
    """The commands of the processes of a session."""
    return _commands(lambda pid: os.getsid(pid) == session)


def in_network(network: Path) -> list[str]:
    """The commands of the processes that hold a network namespace."""
    return _commands(lambda pid: Path(f"/proc/{pid}/ns/net").readlink() == network)


def _commands(belongs: Callable[[int], bool]) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, OSError):
            if belongs(process.pid) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found
