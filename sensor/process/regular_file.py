"""Opens the files that belong to the sensor: regular files only, never through a link, and without waiting.

Whoever may write in a directory could put a link there that leads to a file elsewhere, a FIFO that nobody
writes, or a second name of somebody else's file. Runs in every process that opens evidence, indexes, locks,
tokens, audit logs or files of events.
"""

from __future__ import annotations

import errno
import io
import os
import pwd
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

MODE = 0o640
"""Mode of the files that a sensor creates, subject to the umask."""
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class ForeignFileError(OSError):
    """Something is in the place of a file that no sensor has put there."""


class FileIdentity(NamedTuple):
    """Tells a file from another one that has its name later."""

    device: int
    inode: int


def open_regular(path: Path | str, flags: int, mode: int = MODE, *, dir_fd: int | None = None) -> int:
    """Open a regular file and return its descriptor; a new file gets ``mode``, subject to the umask.

    A file that is opened for writing must have no other name. ``flags`` must not include O_TRUNC, which
    would take effect before the check.

    Raises:
        ForeignFileError: it is no regular file, or has another name.
        OSError: it cannot be opened.
    """
    is_written = flags & os.O_ACCMODE != os.O_RDONLY
    check_regular(path, is_written=is_written, dir_fd=dir_fd)  # opening some devices has an effect
    descriptor = os.open(path, flags | _SAFE, mode, dir_fd=dir_fd)
    try:
        _check(os.fstat(descriptor), path, is_written=is_written)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_to_read(path: Path, buffer_bytes: int = io.DEFAULT_BUFFER_SIZE) -> BinaryIO:
    """Open a regular file to read it.

    Raises:
        OSError: as `open_regular`.
    """
    raw = io.FileIO(open_regular(path, os.O_RDONLY), "rb")
    raw.name = str(path)  # the built-in open() with an opener makes a system call that sandboxes forbid
    return io.BufferedReader(raw, buffer_bytes)


def check_regular(path: Path | str, *, is_written: bool = False, dir_fd: int | None = None) -> None:
    """Check what has a name, without opening it; nothing may have it.

    Raises:
        ForeignFileError: as `open_regular`.
        OSError: this cannot be found out.
    """
    try:
        status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    _check(status, path, is_written=is_written)


def _check(status: os.stat_result, path: Path | str, *, is_written: bool) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "something else")
        raise ForeignFileError(errno.EINVAL, f"{what} is in the place of a regular file", str(path))
    if is_written and status.st_nlink > 1:
        raise ForeignFileError(errno.EMLINK, "the file has another name (a hard link)", str(path))


def identity(path: Path | int) -> FileIdentity | None:
    """Return the identity of what has this name, or of an open file; None if nothing has the name.

    Raises:
        OSError: this cannot be found out.
    """
    try:
        status = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FileIdentity(status.st_dev, status.st_ino)


def ownership_fault(directory: int) -> str | None:
    """Return why an open directory is not safe to write in, in words after its name; None if it is.

    Its owner can replace everything in it, and so can everybody if all may write there, unless it is sticky.
    """
    status = os.fstat(directory)
    if status.st_uid not in (0, os.geteuid()):
        owner = _user_name(status.st_uid)
        return f"belongs to {owner}, who could replace everything in it; run this as {owner}"
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        return "may be written by everybody; forbid that: chmod o-w"
    return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
