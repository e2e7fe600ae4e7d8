"""Calls of prctl(2): a process ends with its parent, gets a name, or gives up privileges.

Runs in the processes of ``sensor run``, and in ``sensor serve``.
"""

from __future__ import annotations

import ctypes
import os
import signal

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_KEEPCAPS, _SET_NAME, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = (
    1,
    4,
    8,
    15,
    24,
    38,
)
_CAP_AMBIENT, _CAP_AMBIENT_LOWER = 47, 3  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent, a process id, ends; exit if it has ended already.

    Switching to another user cancels that: call this again afterwards (prctl(2), PR_SET_PDEATHSIG).
    """
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def set_process_name(name: str) -> None:
    """Set the name that ps(1) and ``/proc/PID/comm`` show: up to 15 ASCII characters, the rest is cut off."""
    _prctl(_SET_NAME, ctypes.create_string_buffer(name.encode("ascii")))


def forbid_new_privileges() -> None:
    """Let no program started from here on gain privileges, as by a set-user-ID bit (no_new_privs)."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def lower_ambient(capability: int) -> None:
    """Do not pass a capability on to programs started from here on, unless this is root; keep our own."""
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_LOWER, capability)


def drop_from_bounding_set(capability: int) -> None:
    """Let no program started from here on gain a capability, given by its number. Needs CAP_SETPCAP."""
    _prctl(_CAPBSET_DROP, capability)


def keep_permitted_capabilities() -> None:
    """Let the next switch from root to another user keep the permitted capabilities."""
    _prctl(_SET_KEEPCAPS, 1)


def forbid_inspection() -> None:
    """Let no process without privileges read this one's memory or descriptors; write no core dumps."""
    _prctl(_SET_DUMPABLE, 0)


def _prctl(option: int, argument: int | ctypes.Array[ctypes.c_char], third: int = 0) -> None:
    """Call prctl(2), whose other arguments have to be 0; raise `OSError` if the kernel refuses."""
    if _libc.prctl(option, argument, third, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
