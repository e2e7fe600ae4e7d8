"""Evidence as a capture file that is written while it is sent. Runs in the API process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from anyio import CapacityLimiter, to_thread
from starlette.responses import StreamingResponse

from sensor.api.audit import AccessRecord
from sensor.evidence.export import Container, encoded
from sensor.evidence.stored import Stored

MEDIA_TYPES: dict[Container, str] = {"pcap": "application/vnd.tcpdump.pcap", "pcapng": "application/x-pcapng"}
CHUNK_BYTES = 1 << 16
_THREADS = CapacityLimiter(4)


def file_response(
    items: Iterable[Stored], container: Container, name: str, limit_bytes: int, record: AccessRecord
) -> StreamingResponse:
    """Return a response that streams these items as the file ``name``, up to a size."""
    chunks = download(items, container, limit_bytes, record)
    return StreamingResponse(
        in_few_threads(chunks, record),
        media_type=MEDIA_TYPES[container],
        headers={
            "Content-Disposition": f'attachment; filename="{name}.{container}"',
            "X-Limit-Bytes": str(limit_bytes),
        },
    )


async def in_few_threads(chunks: Iterator[bytes], record: AccessRecord) -> AsyncIterator[bytes]:
    """Yield chunks made in one of the few threads for downloads, so that other requests still find threads.

    When the client has gone, ``record.is_wanted`` becomes False; the thread sees it and ends by itself.
    """
    try:
        while chunk := await to_thread.run_sync(next, chunks, b"", limiter=_THREADS, abandon_on_cancel=True):
            yield chunk
    finally:
        record.is_wanted = False


def download(
    items: Iterable[Stored], container: Container, limit_bytes: int, record: AccessRecord
) -> Iterator[bytes]:
    """Yield the file in chunks, ending before the packet that would exceed the limit; the first always fits.

    ``record`` counts the items and notes whether the file was cut.
    """
    blocks = encoded(items, container)
    chunk = bytearray(next(blocks))
    record.items = 0
    sent = 0
    for block in blocks:
        if record.items and sent + len(chunk) + len(block) > limit_bytes:
            record.truncated = True
            break
        record.items += 1
        chunk += block
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            sent += len(chunk)
            chunk.clear()
    yield bytes(chunk)
