"""Flows: the table of flows, and the numbers that tell which packets belong to the same flow.

Runs in the capture workers and in ``sensor read``. Time is that of the packets. Kernel rings of
several CPUs have no common order, so time may go back a little from batch to batch.
"""

from __future__ import annotations

import secrets
from math import inf

import numpy as np
from numpy.typing import NDArray

from sensor.model import RULE_CLASSES, Match, PacketBatch, RuleClass

CAPACITY = 1 << 19
"""Flows per generation of the table; two generations are kept."""

_NS = 1_000_000_000


class Flow:
    """The state of one flow."""

    __slots__ = ("answered", "born_jiffies", "expires_ns", "idle_end_ns", "labelled", "packets", "source")

    def __init__(self, idle_end_ns: float, expires_ns: float) -> None:
        self.idle_end_ns = idle_end_ns
        """Time at which it ends unless another packet arrives."""
        self.expires_ns = expires_ns
        """Time at which it ends in any case."""
        self.born_jiffies = 0
        """Time at which it began, if the kernel counts its packets and ends it; 0 otherwise."""
        self.packets = 1
        """Packets counted."""
        self.labelled: set[RuleClass] = set()
        """Classes that have a match in this flow."""
        self.source: bytes | None = None
        """Sender of the packet whose answer is awaited."""
        self.answered = False

    @property
    def is_fully_labelled(self) -> bool:
        """True if every class has a match in it: nothing more in it is matched."""
        return len(self.labelled) == len(RULE_CLASSES)

    def opens(self, source: bytes, destination: bytes) -> bool:
        """Return True if a packet is the first of its flow, or the first answer to that packet."""
        if self.source is None:
            self.source = source
            return True
        if self.answered or destination != self.source:
            return False
        self.answered = True
        return True

    def label(self, matches: tuple[Match, ...], source: bytes) -> tuple[Match, ...]:
        """Return the matches that count: the first match of each class that had none in this flow.

        As in ly_probe, a rule with an ``os`` counts for the class ``os`` too. An answer is now
        awaited to this packet's sender; after a threat, one more answer is kept.
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
    """The flows seen recently, by key. The least recently used flows are dropped first."""

    def __init__(self, idle_s: float, life_s: float, capacity: int = CAPACITY) -> None:
        """Flows end after ``idle_s`` seconds without a packet, and ``life_s`` seconds after their first."""
        self._idle_ns = idle_s * _NS
        self._life_ns = life_s * _NS
        self._capacity = capacity
        self._young: dict[int, Flow] = {}
        self._old: dict[int, Flow] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def count(self, key: int, now_ns: int) -> Flow:
        """Count a packet, and return its flow; a new flow if the last one has ended."""
        flow = self._young.get(key) or self._admitted(key)
        if flow is None or now_ns > flow.idle_end_ns or now_ns > flow.expires_ns:
            self._young[key] = flow = Flow(now_ns + self._idle_ns, now_ns + self._life_ns)
            return flow
        idle_end_ns = now_ns + self._idle_ns
        if idle_end_ns > flow.idle_end_ns:
            flow.idle_end_ns = idle_end_ns
        flow.packets += 1
        return flow

    def find(self, key: int, born_jiffies: int) -> Flow:
        """Return the flow of a packet counted by the kernel; a new flow if the kernel ended the last one."""
        flow = self._young.get(key) or self._admitted(key)
        if flow is None or flow.born_jiffies not in (0, born_jiffies):
            self._young[key] = flow = Flow(inf, inf)
        flow.born_jiffies = born_jiffies  # also for a flow seen only inside a tunnel so far
        return flow

    def _admitted(self, key: int) -> Flow | None:
        """Move a flow to the young generation if it is in the old one; make room for it in any case."""
        if len(self._young) >= self._capacity:
            self._old, self._young = self._young, {}
        flow = self._old.pop(key, None)
        if flow is not None:
            self._young[key] = flow
        return flow


class FlowHash:
    """Computes a number for each packet's flow, for whole batches at once.

    A flow is a protocol, VLANs and two endpoints, in both directions. With ``tos``, a packet whose
    type of service is not 0 belongs to a flow of its own direction and service instead. The 64-bit
    numbers are seeded, so that an attacker cannot make flows collide.
    """

    def __init__(self, tos: bool) -> None:
        self._tos = tos
        self._seed = np.array([secrets.randbits(64)], np.uint64)

    def keys(
        self, buffer: NDArray[np.uint8], packets: PacketBatch, chosen: NDArray[np.intp]
    ) -> NDArray[np.uint64]:
        """Return the flow number of each ``chosen`` packet, shape (len(chosen),).

        All chosen packets must have an IP header.
        """
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
    """Mix every bit into all 64 (the finaliser of splitmix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
