"""Pieces of evidence as a capture file that is made while it is sent. Runs in the process of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from anyio import CapacityLimiter, to_thread

from sensor.api.guard import Access
from sensor.evidence.day_reader import Stored
from sensor.evidence.export import Container, encoded

MEDIA_TYPES: dict[Container, str] = {"pcap": "application/vnd.tcpdump.pcap", "pcapng": "application/x-pcapng"}
CHUNK_BYTES = 1 << 16
_THREADS = CapacityLimiter(4)


async def in_few_threads(chunks: Iterator[bytes], access: Access) -> AsyncIterator[bytes]:
    """Make the chunks in threads of which downloads have only some: other requests go on meanwhile.

    When the client or the server goes, ``access`` tells the thread, which nobody waits for.
    """
    try:
        while chunk := await to_thread.run_sync(next, chunks, b"", limiter=_THREADS, abandon_on_cancel=True):
            yield chunk
    finally:
        access.is_wanted = False


def download(
    pieces: Iterable[Stored], container: Container, limit_bytes: int, access: Access
) -> Iterator[bytes]:
    """Give the file in chunks, and no packet that would make it longer than the limit, but for the first.

    ``access`` is told how much it became.
    """
    blocks = encoded(pieces, container)
    chunk = bytearray(next(blocks))
    access.pieces = 0
    sent = 0
    for block in blocks:
        if access.pieces and sent + len(chunk) + len(block) > limit_bytes:
            access.truncated = True
            break
        access.pieces += 1
        chunk += block
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            sent += len(chunk)
            chunk.clear()
    yield bytes(chunk)
