"""One connection to the API: the client's certificate, and a time limit. Runs in the API process."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_S = 5.0
"""A connection without a complete request for one to two of these intervals is closed."""


class Connection(H11Protocol):
    """uvicorn's HTTP connection, with the name in the client's certificate and a limit on idle time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the client's certificate; start the timer."""
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert")
        if certificate:
            # uvicorn copies this state into the scope of each request (ASGI lifespan specification).
            self.app_state = {**self.app_state, "certificate_name": _common_name(certificate)}
        self._last_cycle: Any = None
        self._timer = self.loop.call_later(IDLE_S, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering and self.cycle is self._last_cycle:
            self.transport.close()
            return
        self._last_cycle = self.cycle
        self._timer = self.loop.call_later(IDLE_S, self._close_if_idle)


def _common_name(certificate: dict[str, Any]) -> str:
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return f"certificate {names[0]}" if names else "certificate without a name"
