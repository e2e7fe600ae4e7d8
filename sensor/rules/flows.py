"""Flows: which packets belong together, and what is remembered of them.

Runs in the capture workers and in ``sensor read``. Time is the packets' own: kernel rings of
several CPUs have no order between them, so it may step back a little from batch to batch.
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

from sensor.model import PacketBatch, RuleClass

CAPACITY = 1 << 19
"""Flows in a generation of the table; two generations are kept."""

_NS = 1_000_000_000


class Flow:
    """What is remembered of one flow."""

    __slots__ = ("answered", "first_ns", "labelled", "last_ns", "packets", "source")

    def __init__(self, now_ns: int) -> None:
        self.first_ns = now_ns
        self.last_ns = now_ns
        self.packets = 0
        """Packets with payload seen."""
        self.labelled: set[RuleClass] = set()
        """Classes that named this flow."""
        self.source: bytes | None = None
        """The address that a packet must be sent to, to be the answer."""
        self.answered = False


class FlowTable:
    """The flows of the last while, found by key; the least recently used are forgotten first."""

    def __init__(self, idle_s: float, life_s: float, capacity: int = CAPACITY) -> None:
        self._idle_ns = idle_s * _NS
        self._life_ns = life_s * _NS
        self._capacity = capacity
        self._young: dict[int, Flow] = {}
        self._old: dict[int, Flow] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def find(self, key: int, now_ns: int) -> Flow:
        """Return the flow of a packet with this key and time; a new one where the last has ended."""
        flow = self._young.get(key)
        if flow is None:
            flow = self._admit(key, now_ns)
        if now_ns - flow.last_ns > self._idle_ns or now_ns - flow.first_ns > self._life_ns:
            self._young[key] = flow = Flow(now_ns)
        elif now_ns > flow.last_ns:
            flow.last_ns = now_ns
        return flow

    def _admit(self, key: int, now_ns: int) -> Flow:
        if len(self._young) >= self._capacity:
            self._old, self._young = self._young, {}
        self._young[key] = flow = self._old.pop(key, None) or Flow(now_ns)
        return flow


class FlowHash:
    """Numbers flows, whole batches at once.

    A flow is protocol, VLANs and both endpoints, in either direction. With ``tos`` a packet
    whose type of service is not 0 belongs to a flow of its own direction and service instead.
    The 64-bit numbers are seeded, so that nobody outside can make flows meet.
    """

    def __init__(self, tos: bool) -> None:
        self._tos = tos
        self._seed = np.array([secrets.randbits(64)], np.uint64)

    def keys(
        self, buffer: NDArray[np.uint8], packets: PacketBatch, chosen: NDArray[np.intp]
    ) -> NDArray[np.uint64]:
        """Return the flow's number of each ``chosen`` packet; all of them have an IP header."""
        source = self._seed ^ (packets.sport[chosen].astype(np.uint64) << np.uint64(32))
        destination = self._seed ^ (packets.dport[chosen].astype(np.uint64) << np.uint64(32))
        for version, words in ((4, 1), (6, 4)):
            of_version = np.flatnonzero(packets.ip_version[chosen] == version)
            width = 4 * words
            start = packets.source_offset[chosen[of_version], None]
            addresses = buffer[start + np.arange(2 * width)].view("<u4").astype(np.uint64)
            for column in range(words):
                source[of_version] = _mix(source[of_version] ^ addresses[:, column])
                destination[of_version] = _mix(destination[of_version] ^ addresses[:, column + words])
        swap = source > destination
        service = packets.tos[chosen].astype(np.uint64) & np.uint64(0xFE if self._tos else 0)
        swap &= service == 0
        low: NDArray[np.uint64] = np.where(swap, destination, source)
        high = np.where(swap, source, destination)
        vlan = (packets.vlan_tci[chosen] & 0xFFF).astype(np.uint64)
        rest = packets.protocol[chosen].astype(np.uint64) | service << np.uint64(8)
        rest |= (vlan[:, 0] << np.uint64(16)) | (vlan[:, 1] << np.uint64(32))
        return _mix(_mix(low ^ rest) + high)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all 64 (the finaliser of splitmix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
