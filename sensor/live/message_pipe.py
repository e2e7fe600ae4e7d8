"""The reading end of a stream of messages. Runs in the indexer, which never waits for the writer."""

from __future__ import annotations

import os

from sensor.evidence.message import HEADER_BYTES, ReceivedMessage, unpack_header

_READ_BYTES = 1 << 20


class MessagePipe:
    """Collects the bytes of a pipe until a message is complete."""

    def __init__(self, descriptor: int, most_bytes: int) -> None:
        """``most_bytes`` is the maximum size of a message; the descriptor is closed by `close`."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._most_bytes = most_bytes
        self._waiting = bytearray()

    def read(self) -> ReceivedMessage | None:
        """Return the next message; None if it is not complete yet.

        Raises:
            EOFError: the writer has closed the pipe.
            MalformedMessageError: the header is malformed.
        """
        needed = HEADER_BYTES
        while True:
            if len(self._waiting) >= HEADER_BYTES:
                needed = HEADER_BYTES + unpack_header(self._waiting, self._most_bytes).body_bytes
            missing = needed - len(self._waiting)
            if not missing and needed:
                data, self._waiting = bytes(self._waiting), bytearray()
                return ReceivedMessage.of(data, self._most_bytes)
            try:
                data = os.read(self._descriptor, min(missing, _READ_BYTES))
            except BlockingIOError:
                return None
            if not data:
                raise EOFError
            self._waiting += data

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)
