"""Queries of different clients take turns. Runs in the event loop of the API process.

A few queries run at a time. Free slots go to the waiting clients one after the other, however many queries
each of them has waiting, and no client holds more than half of the slots.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque


class Turns:
    """A number of slots, shared among clients."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._share = max(1, slots // 2)
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def count(self, client: str) -> int:
        """Return how many queries of a client run or wait."""
        return self._running[client] + len(self._waiting.get(client, ()))

    async def acquire(self, client: str, patience_s: float) -> None:
        """Wait for a slot; the caller releases it.

        Raises:
            TimeoutError: there was no slot within ``patience_s``.
        """
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(granted)
        self._grant()
        try:
            async with asyncio.timeout(patience_s):
                await granted
        except BaseException:  # also a cancellation, between the grant and this
            if granted.done() and not granted.cancelled():
                self.release(client)
            else:
                self._forget(client, granted)
            raise

    def release(self, client: str) -> None:
        """Return a slot of a client."""
        self._free += 1
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        self._grant()

    def _grant(self) -> None:
        """Give free slots to waiting clients in turn."""
        while self._free:
            client = next((one for one in self._waiting if self._running[one] < self._share), None)
            if client is None:
                return
            granted = self._waiting[client][0]
            self._forget(client, granted)
            if client in self._waiting:
                self._waiting.move_to_end(client)
            if not granted.cancelled():
                self._free -= 1
                self._running[client] += 1
                granted.set_result(None)

    def _forget(self, client: str, granted: asyncio.Future[None]) -> None:
        queue = self._waiting.get(client, deque())
        if granted in queue:
            queue.remove(granted)
            if not queue:
                del self._waiting[client]
