"""One connection to the API: the client's certificate, and a time limit. Runs in the API process."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_S = 5.0
"""A connection without a complete request for one to two of these intervals is closed."""


class Connection(H11Protocol):
    """uvicorn's HTTP connection, with the name in the client's certificate and a limit on idle time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the client's certificate; start the timer."""
        super().connection_made(transport)
        # uvicorn copies this state into the scope of each request (ASGI lifespan specification).
        self.app_state = {**self.app_state, "abort": self._abort}
        certificate = transport.get_extra_info("peercert")
        if certificate:
            self.app_state["certificate_name"] = _common_name(certificate)
        self._last_cycle: Any = None
        self._timer = self.loop.call_later(IDLE_S, self._close_if_idle)

    def data_received(self, data: bytes) -> None:
        """Parse a request; drop those sent before the last one is answered, and close after that answer.

        uvicorn would stop reading until then, and not notice that the client has gone.
        """
        if not self._has_request:
            super().data_received(data)
            data = self.conn.trailing_data[0]
        if data and self._has_request:
            self.cycle.keep_alive = False
            self.flow.resume_reading()

    @property
    def _has_request(self) -> bool:
        """True from the end of a request to the end of its answer."""
        return self._is_answering and self.conn.their_state in (h11.DONE, h11.MUST_CLOSE)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _abort(self) -> None:
        """Close the connection with a reset, so that no client takes what it has for the whole answer."""
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.transport.abort()

    def _close_if_idle(self) -> None:
        if not self._is_answering and self.cycle is self._last_cycle:
            self.transport.close()
            return
        self._last_cycle = self.cycle
        self._timer = self.loop.call_later(IDLE_S, self._close_if_idle)


def _common_name(certificate: dict[str, Any]) -> str:
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return f"certificate {names[0]}" if names else "certificate without a name"
