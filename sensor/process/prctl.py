"""Calls of prctl(2): a process ends with its parent, gets a name, or gives up privileges.

Runs in the processes of ``sensor run``, and in ``sensor serve``.
"""

from __future__ import annotations

import ctypes
import os
import signal

_SET_PDEATHSIG, _SET_NAME, _SET_NO_NEW_PRIVS = 1, 15, 38
_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 47, 4  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent, a process id, ends; exit if it has ended already."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def set_process_name(name: str) -> None:
    """Set the name that ps(1) and ``/proc/PID/comm`` show: up to 15 ASCII characters, the rest is cut off."""
    _prctl(_SET_NAME, ctypes.create_string_buffer(name.encode("ascii")))


def forbid_new_privileges() -> None:
    """Let no program started from here on gain privileges, as by a set-user-ID bit (no_new_privs)."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def clear_ambient_capabilities() -> None:
    """Pass no capabilities on to programs started from here on, unless this is root; keep our own."""
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)


def _prctl(option: int, argument: int | ctypes.Array[ctypes.c_char]) -> None:
    """Call prctl(2), whose other arguments have to be 0; raise `OSError` if the kernel refuses."""
    if _libc.prctl(option, argument, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
