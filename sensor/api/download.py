"""Evidence as a capture file that is written while it is sent. Runs in the API process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable
from typing import Any

import anyio
from fastapi import HTTPException
from starlette.responses import StreamingResponse
from starlette.types import Send

from sensor.api.audit import AccessRecord
from sensor.api.backend import Backend
from sensor.api.deadline import ClientGoneError, Deadline, QueryTimeoutError
from sensor.api.visit import Visit
from sensor.evidence.export import Container, Losses, encoded
from sensor.evidence.stored import Stored

MEDIA_TYPES: dict[Container, str] = {"pcap": "application/vnd.tcpdump.pcap", "pcapng": "application/x-pcapng"}
CHUNK_BYTES = 1 << 16
FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A capture file of at most `X-Limit-Bytes` bytes; packets beyond that are left out",
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in MEDIA_TYPES.values()
        },
    }
}
"""The answer of a route that returns a file, for OpenAPI."""


class DownloadCutError(Exception):
    """A download has to end before its end, and part of it has been sent."""


class Download(StreamingResponse):
    """A response that starts with its first bytes, so that an error before them is a problem (RFC 9457)."""

    def __init__(self, chunks: AsyncIterator[bytes], deadline: Deadline, **options: Any) -> None:
        super().__init__(chunks, **options)
        self._deadline = deadline

    async def stream_response(self, send: Send) -> None:
        """Send the response."""
        chunks = aiter(self.body_iterator)
        first = await anext(chunks, b"")
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        try:
            with anyio.fail_after(self._deadline.remaining_s):
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except (QueryTimeoutError, HTTPException, TimeoutError) as error:
            raise DownloadCutError from error
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def file_response(
    items: Iterable[Stored | None],
    container: Container,
    name: str,
    backend: Backend,
    visit: Visit,
    *,
    is_quick: bool = False,
    losses: Losses | None = None,
) -> Download:
    """Return a response that streams these items as the file ``name``, up to a size and for a time."""
    visit.deadline.extend(backend.export_seconds, "export_seconds")
    chunks = download(encoded(items, container, losses), backend.export_bytes, visit.record)
    return Download(
        in_turns(chunks, visit, is_quick=is_quick),
        visit.deadline,
        media_type=MEDIA_TYPES[container],
        headers={
            "Content-Disposition": f'attachment; filename="{name}.{container}"',
            "X-Limit-Bytes": str(backend.export_bytes),
        },
    )


async def in_turns(
    chunks: Generator[bytes, None, None], visit: Visit, *, is_quick: bool = False
) -> AsyncIterator[bytes]:
    """Yield the chunks that are not empty. Each is made in a thread, when it is the client's turn.

    While a slow client receives, it holds no slot. When the client has gone, the guard cancels this.
    """
    try:
        while True:
            async with visit.turn(is_quick=is_quick):
                chunk = await anyio.to_thread.run_sync(next, chunks, None)
            if chunk is None:
                return
            if chunk:
                yield chunk
    except ClientGoneError:
        await anyio.sleep_forever()
    finally:
        chunks.close()


def download(blocks: Iterable[bytes], limit_bytes: int, record: AccessRecord) -> Generator[bytes, None, None]:
    """Yield a file in chunks, ending before the packet that would exceed the limit; the first always fits.

    The blocks are those of `sensor.evidence.export.encoded`. Where one is empty, it yields an empty chunk.
    ``record`` counts the packets and notes whether the file was cut.
    """
    chunk = bytearray()
    record.items = 0
    sent, has_header = 0, False
    for block in blocks:
        if not block:
            yield b""
            continue
        if record.items and sent + len(chunk) + len(block) > limit_bytes:
            record.truncated = True
            break
        record.items += has_header
        has_header = True
        chunk += block
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            sent += len(chunk)
            chunk.clear()
    yield bytes(chunk)
