"""Packets of sources for tests of fair shares, without frames around their addresses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from ipaddress import ip_address

import numpy as np
from numpy.typing import NDArray

from sensor.native.source_table import SourceColumns

START_NS = 1_800_000_000_000_000_000
MS = 1_000_000
SECOND = 1000 * MS
SERVER = {4: "198.51.100.10", 6: "2001:db8:20::10"}


class SourcePackets:
    """Packets from addresses to one server; ``time_ns`` counts from `START_NS`."""

    def __init__(
        self,
        sources: Sequence[str],
        time_ns: int | Sequence[int] | NDArray[np.int64] = 0,
        sport: int | Sequence[int] | NDArray[np.int64] = 1024,
    ) -> None:
        pairs = list(map(_pair, sources))
        sizes = list(map(len, pairs))
        count = len(sizes)
        self.data = np.frombuffer(b"".join(pairs), np.uint8)
        self.columns = SourceColumns(
            address=np.cumsum([0, *sizes])[:-1].astype(np.int64),
            version=np.array([4 if size == 8 else 6 for size in sizes], np.uint8),
            sport=np.broadcast_to(np.asarray(sport, np.uint16), count),
            dport=np.full(count, 80, np.uint16),
            time_ns=np.broadcast_to(START_NS + np.asarray(time_ns, np.int64), count),
        )

    def __len__(self) -> int:
        return len(self.columns.address)


@cache
def _pair(source: str) -> bytes:
    address = ip_address(source)
    return address.packed + ip_address(SERVER[address.version]).packed
