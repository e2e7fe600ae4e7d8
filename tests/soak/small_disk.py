"""A small file system on a loop device, which can be filled, break, and be replaced by a new one.

Everything is mounted in the soak's own mount namespace, and is gone with the last process of the soak.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path

_SHUT_DOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN, ``_IOR('X', 125, __u32)`` in fs/ext4/ext4.h."""
_FLUSH_FIRST = struct.pack("I", 0)


class SmallDisk:
    """An ext4 file system of ``mib`` MiB, mounted at a directory."""

    def __init__(self, images: Path, directory: Path, mib: int) -> None:
        """Make the directory for images, and the one to mount at."""
        self.directory = directory
        self._images, self._mib = images, mib
        self._devices: list[str] = []
        self._filler = directory / "filler"
        images.mkdir()
        directory.mkdir()
        self.replace()

    def replace(self) -> None:
        """Mount a new, empty file system in the place of the last one, which stays mounted below it."""
        image = self._images / str(len(self._devices))
        with image.open("wb") as file:
            file.truncate(self._mib << 20)
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        device = _run("losetup", "--find", "--show", str(image)).strip()
        os.open(device, os.O_RDONLY | os.O_CLOEXEC)  # until this process ends
        _run("losetup", "--detach", device)  # by the kernel, when it is neither mounted nor open any more
        _run("mount", "-t", "ext4", device, str(self.directory))
        self._devices.append(device)

    def fill(self) -> None:
        """Take all the space that is left."""
        with self._filler.open("ab") as file, suppress(OSError):
            while True:
                free = os.statvfs(self.directory)
                size = max(free.f_bavail, 1) * free.f_frsize
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)

    def clear(self) -> None:
        """Give it back."""
        self._filler.unlink(missing_ok=True)

    def fail(self) -> None:
        """Let every access fail with EIO from now on; what was written until now is kept."""
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            ioctl(directory, _SHUT_DOWN, _FLUSH_FIRST)
        finally:
            os.close(directory)

    def file_systems(self) -> Iterator[Path]:
        """Yield the directory with each file system that was ever mounted there, once nobody uses them."""
        for _ in self._devices:
            _run("umount", str(self.directory))
        for device in self._devices:
            _run("mount", "-t", "ext4", device, str(self.directory))
            yield self.directory
            _run("umount", str(self.directory))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
