"""Capture files as the same batches of frames that live capture gives; runs in ``sensor read``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from sensor.errors import CaptureFileError
from sensor.files.byte_source import ByteSource
from sensor.files.pcap_reader import BYTE_ORDERS, read_records
from sensor.files.pcapng_reader import MAGIC, read_blocks
from sensor.model import FrameBatch

MAGIC_SIZE = 4
UNPACKERS = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zX": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}


class CaptureFile:
    """A pcap or pcapng file, open until it is closed, whose frames can be read once.

    Args:
        path: The file; a pipe will do as well.

    Raises:
        CaptureFileError: It cannot be opened, is empty, or is no capture file.
    """

    def __init__(self, path: Path) -> None:
        self._source = ByteSource(path)
        try:
            self._is_pcapng = _is_pcapng(path, self._source.peek(MAGIC_SIZE))
        except CaptureFileError:
            self.close()
            raise

    @property
    def size_bytes(self) -> int:
        """The file's size; 0 for a pipe, which has none."""
        return self._source.size_bytes

    @property
    def position_bytes(self) -> int:
        """How much of the file has been read."""
        return self._source.position_bytes

    def batches(self, max_frames: int = 4096) -> Iterator[FrameBatch]:
        """Read the frames, in file order; each batch has a buffer of its own and stays valid.

        Raises:
            CaptureFileError: The file is damaged or cut short; whole frames before that come first.
        """
        read = read_blocks if self._is_pcapng else read_records
        return read(self._source, max_frames)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_pcapng(path: Path, magic: bytes) -> bool:
    """Tell pcapng from pcap, and both from everything else."""
    if magic == MAGIC or magic in BYTE_ORDERS:
        return magic == MAGIC
    if not magic:
        raise CaptureFileError(f"{path}: the file is empty; capture again, or name another file")
    for prefix, unpacker in UNPACKERS.items():
        if magic.startswith(prefix):
            raise CaptureFileError(f"{path}: the file is compressed; {unpacker} it first")
    raise CaptureFileError(
        f"{path}: neither pcap nor pcapng, it starts with {magic.hex()}; "
        f"if Wireshark can read it, convert it: editcap -F pcap {path} OUT"
    )
