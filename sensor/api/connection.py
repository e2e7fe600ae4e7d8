"""One connection to the API: who is at its other end, how long it may keep us. Runs in `sensor serve`."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

WAIT_S = 5.0
"""A connection on which no whole request arrives within one to two of these is closed."""


class Connection(H11Protocol):
    """uvicorn's own, with the name in a client's certificate; ends for whoever sends no whole request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note who it is; begin to watch."""
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert")
        if certificate:
            # The state goes into the scope of each request (ASGI lifespan specification).
            self.app_state = {**self.app_state, "peer": _common_name(certificate)}
        self._last_cycle: Any = None
        self._watch = self.loop.call_later(WAIT_S, self._close_if_quiet)

    def connection_lost(self, exc: Exception | None) -> None:
        """Watch no longer."""
        self._watch.cancel()
        super().connection_lost(exc)

    def _close_if_quiet(self) -> None:
        answers = self.cycle is not None and not self.cycle.response_complete
        if not answers and self.cycle is self._last_cycle:
            self.transport.close()
            return
        self._last_cycle = self.cycle
        self._watch = self.loop.call_later(WAIT_S, self._close_if_quiet)


def _common_name(certificate: dict[str, Any]) -> str:
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return f"certificate {names[0]}" if names else "certificate without a name"
