"""Landlock: what of the file system and the network a process may still use (landlock(7)).

Runs in the processes beside the supervisor. Every rule narrows what the process could do before. Kernels
before 5.13 have no Landlock, older ones have fewer of its rights, and some are built or started without it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls, the same on all architectures."""
_GET_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG, _TRUNCATE = (1 << n for n in (1, 2, 3, 5, 8, 14))
_CHANGE = _WRITE_FILE | _READ_FILE | _READ_DIR | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Number of rights on files, by the version that brought the last of them."""
_CONNECT_TCP = 1 << 1
_NET_SINCE, _NET_RIGHTS = 4, 0b11
_SCOPES_SINCE, _SCOPES = 6, 0b11
"""Abstract unix sockets and signals of processes outside."""

_libc = ctypes.CDLL(None, use_errno=True)


class _RulesetAttr(ctypes.Structure):
    """``struct landlock_ruleset_attr`` (linux/landlock.h)."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    """``struct landlock_path_beneath_attr``."""

    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _NetPortAttr(ctypes.Structure):
    """``struct landlock_net_port_attr``."""

    _fields_ = (("allowed_access", ctypes.c_uint64), ("port", ctypes.c_uint64))


@dataclass(frozen=True, kw_only=True)
class Access:
    """Files and ports that remain usable; by default none."""

    readable: tuple[Path, ...] = ()
    """Files, and directories with all that is in them, that may be read."""
    listable: tuple[Path, ...] = ()
    """Directories that may be listed, with those in them; their files cannot be opened."""
    writable: tuple[Path, ...] = ()
    """Directories in which files may be read, created and written, but neither cut short nor removed."""
    changeable: tuple[Path, ...] = ()
    """Directories in which regular files may be read, created, written, renamed and removed."""
    erasable: tuple[Path, ...] = ()
    """Directories in which files may be read and removed."""
    ports: tuple[int, ...] = ()
    """TCP ports to which the process may connect."""


NO_ACCESS = Access()


def landlock_version() -> int:
    """Return the version of Landlock that the running kernel has; 0 without Landlock."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)))


def restrict_self(access: Access) -> None:
    """Give up all but ``access``, in this thread and those it starts; do nothing without Landlock.

    This needs no_new_privs. The process can no longer signal other processes, nor use their abstract unix
    sockets, from version 6 on.

    Raises:
        OSError: The kernel refuses.
    """
    version = landlock_version()
    if version == 0:
        return
    rights = (1 << max(count for since, count in _FILE_RIGHTS.items() if since <= version)) - 1
    attr = _RulesetAttr(
        rights,
        _NET_RIGHTS if version >= _NET_SINCE else 0,
        _SCOPES if version >= _SCOPES_SINCE else 0,
    )
    ruleset = _call(_CREATE_RULESET, ctypes.byref(attr), ctypes.c_size_t(ctypes.sizeof(attr)), 0)
    try:
        _allow_paths(ruleset, access.readable, _READ_FILE | _READ_DIR)
        _allow_paths(ruleset, access.listable, _READ_DIR)
        _allow_paths(ruleset, access.writable, _READ_FILE | _READ_DIR | _WRITE_FILE | _MAKE_REG)
        _allow_paths(ruleset, access.changeable, _CHANGE & rights)
        _allow_paths(ruleset, access.erasable, _READ_FILE | _READ_DIR | _REMOVE_FILE)
        if version >= _NET_SINCE:
            for port in access.ports:
                rule = _NetPortAttr(_CONNECT_TCP, port)
                _call(_ADD_RULE, ruleset, _NET_PORT, ctypes.byref(rule), 0)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_paths(ruleset: int, paths: Iterable[Path], rights: int) -> None:
    """Allow rights on each path that exists; a file has no rights that are of directories alone."""
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                continue  # nor could the process use it
            raise
        try:
            allowed = rights if path.is_dir() else rights & ~_READ_DIR
            rule = _PathBeneathAttr(allowed, fd)
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result
