"""The evidence directory of one device, locked for the process that writes it.

Runs in the supervisor, ``sensor read`` and ``sensor evidence reindex``.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from sensor.errors import EvidenceError
from sensor.evidence.directory_lock import holds_lock, lock_directory
from sensor.evidence.origins import Origins
from sensor.evidence.recovery import Recovery, recover
from sensor.process.accounts import ProcessRole, identity_of
from sensor.process.regular_file import ownership_fault

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

log = logging.getLogger(__name__)


class DeviceDirectory:
    """The directory ``directory/devid``, created if it does not exist; a lock keeps a second writer out.

    Creates directories with mode 0750, subject to the umask, and finishes the files that a killed writer
    left open.

    Raises:
        EvidenceError: the directory cannot be written, belongs to another user, or another process already
            writes there.
    """

    def __init__(self, directory: Path, devid: int) -> None:
        self.path = directory / str(devid)
        self._fault = ""
        try:
            self._lock = self._prepare()
            self.recovered: list[Recovery] = recover(self.path)
            """Files that the last run left open; the caller logs one line for each."""
            self._close_origins()
        except OSError as error:
            raise EvidenceError(
                f"cannot write evidence to {self.path}: {error.strerror};"
                " make it writable, or choose another directory with --evidence"
            ) from error

    def _prepare(self) -> int:
        """Create and lock the directory; return the descriptor of the lock.

        Raises:
            EvidenceError: it belongs to another user, or another process already writes there.
            OSError: it cannot be created or locked.
        """
        make_directory(self.path.parent)
        _check_owner(self.path.parent)
        if self.path.is_symlink():
            raise EvidenceError(f"{self.path} is a symbolic link; mount the directory there instead")
        make_directory(self.path, os.O_NOFOLLOW)
        _check_owner(self.path, os.O_NOFOLLOW)
        return lock_directory(self.path)

    def _close_origins(self) -> None:
        """Note where the evidence ends that a killed ``sensor read`` wrote, before anything follows it."""
        try:
            Origins(self.path).close()
        except (OSError, EvidenceError) as error:
            log.error("the origin of evidence of capture files cannot be noted: %s", error)  # noqa: TRY400

    def restore(self) -> bool:
        """Create and lock the directory again if it was removed or replaced; return True if that was done.

        Errors are logged once, and the next call tries again.
        """
        try:
            if holds_lock(self.path, self._lock):
                return False
            lock = self._prepare()
        except (OSError, EvidenceError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if reason != self._fault:
                log.error("%s was removed or replaced, and cannot be made again: %s", self.path, reason)  # noqa: TRY400
            self._fault = str(reason)
            return False
        os.close(self._lock)
        self._lock, self._fault = lock, ""
        log.error("%s or its lock was removed or replaced; it was made again", self.path)
        return True

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)


def make_directory(path: Path, flags: int = 0) -> None:
    """Create a directory for evidence if it does not exist.

    If it is root's and empty, it gets the group of the API, and so does what is created in it: the API reads
    evidence through that group, and must not keep root's for it.

    Raises:
        OSError: it cannot be created.
    """
    path.mkdir(mode=0o750, parents=True, exist_ok=True)
    descriptor = os.open(path, _DIRECTORY | flags)
    try:
        status = os.fstat(descriptor)
        if os.geteuid() == status.st_uid == status.st_gid == 0 and not any(path.iterdir()):
            with suppress(PermissionError):  # without CAP_CHOWN, which a service does not have either
                os.fchown(descriptor, -1, identity_of(ProcessRole.API).gid)
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode) | stat.S_ISGID)
    finally:
        os.close(descriptor)


def _check_owner(directory: Path, flags: int = 0) -> None:
    """Check that nobody else can replace what is written to a directory.

    Raises:
        EvidenceError: somebody can.
        OSError: the directory cannot be opened.
    """
    descriptor = os.open(directory, _DIRECTORY | flags)
    try:
        fault = ownership_fault(descriptor)
    finally:
        os.close(descriptor)
    if fault:
        raise EvidenceError(f"{directory} {fault}")
