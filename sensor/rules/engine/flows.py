"""Flows: which packets belong together, and what is remembered of them.

Runs in the capture workers and in ``sensor read``. Time is the packets' own: kernel rings of
several CPUs have no order between them, so it may step back a little from batch to batch.
"""

from __future__ import annotations

import secrets
from math import inf

import numpy as np
from numpy.typing import NDArray

from sensor.model import RULE_CLASSES, Match, PacketBatch, RuleClass

CAPACITY = 1 << 19
"""Flows in a generation of the table; two generations are kept."""

_NS = 1_000_000_000


class Flow:
    """What is remembered of one flow."""

    __slots__ = ("answered", "born_jiffies", "dies_ns", "idles_ns", "labelled", "packets", "source")

    def __init__(self, idles_ns: float, dies_ns: float) -> None:
        self.idles_ns = idles_ns
        """When it ends unless another packet comes."""
        self.dies_ns = dies_ns
        """When it ends in any case."""
        self.born_jiffies = 0
        """When it began, where the kernel counts it and decides when it ends; 0 where it does not."""
        self.packets = 1
        """Packets counted."""
        self.labelled: set[RuleClass] = set()
        """Classes that named this flow."""
        self.source: bytes | None = None
        """Whose packet is to be answered."""
        self.answered = False

    @property
    def is_named(self) -> bool:
        """Whether every class has named it: nothing further in it is looked at."""
        return len(self.labelled) == len(RULE_CLASSES)

    def opens(self, source: bytes, destination: bytes) -> bool:
        """Whether a packet is the first of its flow, or the first answer to that."""
        if self.source is None:
            self.source = source
            return True
        if self.answered or destination != self.source:
            return False
        self.answered = True
        return True

    def label(self, matches: tuple[Match, ...], source: bytes) -> tuple[Match, ...]:
        """Keep the matches that label the flow: the first of each class that has named none yet.

        As in ly_probe, a rule's ``os`` labels the class ``os`` too; whoever sent the packet is
        the one to be answered from here on, and a threat may be answered once more.
        """
        labels = []
        for match in matches:
            if match.rule.rule_class not in self.labelled:
                labels.append(match)
                self.labelled.add(match.rule.rule_class)
                if match.rule.os:
                    self.labelled.add("os")
                self.source = source
                self.answered &= match.rule.rule_class != "threat"
        return tuple(labels)


class FlowTable:
    """The flows of the last while, found by key; the least recently used are forgotten first."""

    def __init__(self, idle_s: float, life_s: float, capacity: int = CAPACITY) -> None:
        """Flows end after so many seconds without a packet, and so many after their first."""
        self._idle_ns = idle_s * _NS
        self._life_ns = life_s * _NS
        self._capacity = capacity
        self._young: dict[int, Flow] = {}
        self._old: dict[int, Flow] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def count(self, key: int, now_ns: int) -> Flow:
        """Count a packet to its flow, and return that; a new one where the last has ended."""
        flow = self._young.get(key) or self._admitted(key)
        if flow is None or now_ns > flow.idles_ns or now_ns > flow.dies_ns:
            self._young[key] = flow = Flow(now_ns + self._idle_ns, now_ns + self._life_ns)
            return flow
        idles_ns = now_ns + self._idle_ns
        if idles_ns > flow.idles_ns:
            flow.idles_ns = idles_ns
        flow.packets += 1
        return flow

    def known(self, key: int, born_jiffies: int) -> Flow:
        """Return the flow of a packet that the kernel counted; a new one where the last ended there."""
        flow = self._young.get(key) or self._admitted(key)
        if flow is None or flow.born_jiffies not in (0, born_jiffies):
            self._young[key] = flow = Flow(inf, inf)
        flow.born_jiffies = born_jiffies  # also of a flow that has so far been seen inside a tunnel only
        return flow

    def _admitted(self, key: int) -> Flow | None:
        """Bring a flow back among the young, where there is one; make room for it in any case."""
        if len(self._young) >= self._capacity:
            self._old, self._young = self._young, {}
        flow = self._old.pop(key, None)
        if flow is not None:
            self._young[key] = flow
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
        versions = packets.ip_version[chosen]
        for version, words in ((4, 1), (6, 4)):
            of_version = np.flatnonzero(versions == version)
            if len(of_version):
                start = packets.source_offset[chosen[of_version], None]
                addresses = buffer[start + np.arange(8 * words)].view("<u4").astype(np.uint64)
                for column in range(words):
                    source[of_version] = _mix(source[of_version] ^ addresses[:, column])
                    destination[of_version] = _mix(destination[of_version] ^ addresses[:, column + words])
        swap = source > destination
        service = packets.tos[chosen].astype(np.uint64) & np.uint64(0xFE if self._tos else 0)
        swap &= service == 0
        low: NDArray[np.uint64] = np.where(swap, destination, source)
        high = np.where(swap, source, destination)
        rest = packets.protocol[chosen].astype(np.uint64) | service << np.uint64(8)
        if packets.vlan_count.any():
            vlan = (packets.vlan_tci[chosen] & 0xFFF).astype(np.uint64)
            rest |= (vlan[:, 0] << np.uint64(16)) | (vlan[:, 1] << np.uint64(32))
        return _mix(_mix(low ^ rest) + high)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all 64 (the finaliser of splitmix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
