"""Limits the requests of each client. Runs in the API process."""

from __future__ import annotations

import time
from collections import OrderedDict

CLIENTS_MAX = 4096
"""Maximum number of clients tracked at a time; beyond it, the quietest one is forgotten."""
BURST_S = 2
"""A quiet client may send this many seconds' worth of requests at once."""


class RateLimiter:
    """One token bucket per client address."""

    def __init__(self, rate: int) -> None:
        """Admit ``rate`` requests per second and client; 0 means any number."""
        self._rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, client: str) -> bool:
        """Count a request of this client and return True if it is within the rate."""
        if not self._rate:
            return True
        most = float(self._rate * BURST_S)
        now_s = time.monotonic()
        left, then_s = self._buckets.pop(client, (most, now_s))
        left = min(most, left + (now_s - then_s) * self._rate)
        admitted = left >= 1
        self._buckets[client] = (left - admitted, now_s)
        if len(self._buckets) > CLIENTS_MAX:
            self._buckets.popitem(last=False)
        return admitted
