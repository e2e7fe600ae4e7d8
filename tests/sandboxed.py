"""Attempts of a process in a sandbox, as an attacker in control of it would make them."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sensor.process import sandbox
from sensor.process.accounts import ProcessRole

SUCCESS = "success"
"""The attempt succeeded."""


def attempt(role: ProcessRole, action: Callable[[], object], **rights: Any) -> str:
    """Let a child enter a sandbox and make an attempt; return `SUCCESS`, an errno or a signal by name.

    ``rights`` are the arguments of `sandbox.enter`.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        _try(role, action, theirs, rights)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        text = answer.read()
    _, status = os.waitpid(pid, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else text


def _try(role: ProcessRole, action: Callable[[], object], answer: int, rights: dict[str, Any]) -> None:
    text = "failed before the attempt"
    try:
        kept = [answer, *rights.pop("descriptors", ())]
        sandbox.enter(role, descriptors=kept, **rights)
        text = SUCCESS
        action()
    except OSError as error:
        text = errno.errorcode[error.errno or 0]
    except BaseException as error:
        text = repr(error)
    finally:
        os.write(answer, text.encode())
        os._exit(0)


@contextmanager
def waiting(
    role: ProcessRole | None, before: Callable[[], object] = lambda: None, **rights: Any
) -> Iterator[int]:
    """Yield the process id of a child that calls ``before``, enters a sandbox if it has a role, and waits."""
    ready, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            before()
            if role is not None:
                sandbox.enter(role, descriptors=[theirs], **rights)
            os.write(theirs, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        assert os.read(ready, 1) == b"1"
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def status_of(pid: int) -> dict[str, str]:
    """Return the fields of ``/proc/PID/status``."""
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:  # noqa: PTH123
        pairs = (line.partition(":") for line in lines)
        return {name: value.strip() for name, _, value in pairs}


def shared_mappings(pid: int) -> list[str]:
    """Return what a process shares with others in memory: the names in ``/proc/PID/maps``."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as lines:  # noqa: PTH123
        fields = [line.split(maxsplit=5) for line in lines]
        return sorted(one[5].strip() if len(one) > 5 else "" for one in fields if one[1].endswith("s"))
