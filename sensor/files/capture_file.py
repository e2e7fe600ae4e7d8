"""Opens a capture file, pcap or pcapng, and reads its frames in batches. Runs in ``sensor read``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from sensor.errors import CaptureFileError
from sensor.files.byte_source import SKIP_BYTES, ByteSource, Digest
from sensor.files.pcap_reader import BYTE_ORDERS, read_pcap
from sensor.files.pcapng_reader import MAGIC, read_pcapng
from sensor.model import FrameBatch

MAGIC_BYTES = 4
DECOMPRESSORS = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zX": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}
"""The program to decompress a file that starts with these bytes; we cannot, or it is compressed twice."""


class CaptureFile:
    """A pcap or pcapng file, possibly compressed, whose frames can be read once.

    Args:
        path: A file or a pipe.
        digest: Gets all bytes that are read, decompressed.

    Raises:
        CaptureFileError: the file cannot be opened, is empty, or is not a capture file.
    """

    def __init__(self, path: Path, digest: Digest | None = None) -> None:
        self.path = path
        self._source = ByteSource(path, digest)
        try:
            magic = self._source.peek(MAGIC_BYTES)
            if not magic:
                self._source.check_compression()
            self._is_pcapng = _is_pcapng(path, magic)
        except CaptureFileError:
            self.close()
            raise

    @property
    def size_bytes(self) -> int:
        """The size of the file; 0 for a pipe."""
        return self._source.size_bytes

    @property
    def position_bytes(self) -> int:
        """The number of bytes read so far."""
        return self._source.position_bytes

    def batches(self, max_frames: int = 16384) -> Iterator[FrameBatch]:
        """Yield the frames in batches, in the order of the file; a batch is valid until the next one.

        Raises:
            CaptureFileError: the file is damaged or cut short. The frames before that are yielded first.
        """
        read = read_pcapng if self._is_pcapng else read_pcap
        yield from read(self._source, max_frames)
        self._source.check_compression()

    def skip_rest(self) -> None:
        """Read the file to its end, without its frames; a pipe, which may have no end, is left as it is."""
        with suppress(CaptureFileError):  # the caller knows of the damage before that
            while self.size_bytes and not self._source.at_end:
                self._source.read(SKIP_BYTES)

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
    """Return True for pcapng and False for pcap.

    Raises:
        CaptureFileError: the file is neither.
    """
    if magic == MAGIC or magic in BYTE_ORDERS:
        return magic == MAGIC
    if not magic:
        raise CaptureFileError(f"{path}: the file is empty; give another file")
    for prefix, program in DECOMPRESSORS.items():
        if magic.startswith(prefix):
            raise CaptureFileError(f"{path}: the file is compressed; {program} it first")
    raise CaptureFileError(
        f"{path}: neither pcap nor pcapng (it starts with {magic.hex()}); "
        f"if Wireshark can read it, convert it: editcap -F pcap {path} OUT"
    )
