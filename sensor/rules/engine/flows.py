"""Flows: the table of flows, and the numbers that tell which packets belong to the same flow.

Runs in the capture workers and in ``sensor read``. Time is that of the packets. Kernel rings of
several CPUs have no common order, so time may go back a little from batch to batch.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from copy import copy
from math import inf

import numpy as np
from numpy.typing import NDArray

from sensor.model import RULE_CLASSES, PacketBatch, Rule
from sensor.native.flow_hash import hash_flows
from sensor.native.flow_memory import FlowMemory

_NS = 1_000_000_000
_FOREVER_NS = (1 << 63) - 1
_CLASS_BITS = {rule_class: 1 << number for number, rule_class in enumerate(RULE_CLASSES)}
_ALL_CLASSES = (1 << len(RULE_CLASSES)) - 1


class FlowTable:
    """The flows seen recently, by key. The least recently used flows are dropped first.

    Its memory is shared with the processes that are forked while it is there: the worker that replaces
    another one continues with the same flows.
    """

    def __init__(self, idle_s: float, life_s: float) -> None:
        """Flows end after ``idle_s`` seconds without a packet, and ``life_s`` seconds after their first."""
        self._idle_ns = _FOREVER_NS if idle_s == inf else int(idle_s * _NS)
        self._life_ns = _FOREVER_NS if life_s == inf else int(life_s * _NS)
        self._memory = FlowMemory()

    @property
    def shared_address(self) -> int:
        """Address of the shared memory."""
        return self._memory.address

    def empty_copy(self) -> FlowTable:
        """Return a table without flows, whose flows end after the same times."""
        other = copy(self)
        other._memory = FlowMemory()
        return other

    def begin_batch(self, ring: int) -> None:
        """Note that all frames so far were reported, and that the next ones are of this ring."""
        self._memory.begin_batch(ring)

    def undo(self, ring: int, tail: int) -> None:
        """Forget the frames of a ring from ``tail`` on, which a worker had not reported when it died."""
        self._memory.undo(ring, tail)

    def count(
        self,
        keys: NDArray[np.uint64],
        numbers: NDArray[np.int64],
        born_jiffies: NDArray[np.int64],
        now_ns: NDArray[np.int64],
        positions: NDArray[np.uint64] | None = None,
    ) -> NDArray[np.uint64]:
        """Count packets in their flows; return the serial number of each packet's flow, for `label`.

        Args:
            keys: The flow of each packet, from `FlowHash.keys`.
            numbers: The kernel's number of each packet in its flow. A 0 is replaced by ours.
            born_jiffies: Start of the kernel's flow, for packets that the kernel has numbered.
            now_ns: Time of each packet.
            positions: Position of each packet's frame in its ring; None if it comes from no ring.
        """
        columns = keys, numbers, born_jiffies, now_ns, positions
        return self._memory.count(self._idle_ns, self._life_ns, *columns)

    def label(
        self,
        serials: NDArray[np.uint64],
        frames: NDArray[np.uint8],
        packets: PacketBatch,
        chosen: NDArray[np.intp],
        first: NDArray[np.int64],
        rules: Sequence[Rule],
        positions: NDArray[np.uint64] | None = None,
        *,
        by_flow: bool,
        once: bool,
        only_threats: bool,
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Decide which packets are kept, and which of their matches count; label their flows.

        With ``once``, a match counts if its class had none in the flow. As in ly_probe, a rule with an ``os``
        counts for the class ``os`` too. An answer is then awaited to the packet's sender; after a threat, one
        more answer is kept. In a flow in which every class has a match, nothing more is kept.

        Args:
            serials: From `count`, for each of the n packets.
            frames: The buffer of the frames.
            packets: All packets of the batch.
            chosen: Positions of the n packets in the batch.
            first: First match of each packet, shape (n + 1,).
            rules: The rule of each match.
            positions: As for `count`.
            by_flow: Keep the first packet of each flow and the first answer to it, matched or not.
            once: Each class counts once per flow.
            only_threats: Otherwise, keep packets with a match of a threat rule only.

        Returns:
            For each packet whether it is kept, and for each match whether it counts.
        """
        return self._memory.select(
            serials,
            frames,
            packets.source_offset[chosen],
            np.where(packets.ip_version[chosen] == 6, 16, 4).astype(np.uint8),
            first,
            np.array([_CLASS_BITS[rule.rule_class] for rule in rules], np.uint8),
            np.array([_CLASS_BITS["os"] if rule.os else 0 for rule in rules], np.uint8),
            positions,
            by_flow=by_flow,
            once=once,
            all_classes=_ALL_CLASSES,
            threat=_CLASS_BITS["threat"],
            wanted=_CLASS_BITS["threat"] if only_threats else _ALL_CLASSES,
        )


class FlowHash:
    """Computes a number for each packet's flow, for whole batches at once.

    A flow is a protocol, VLANs and two endpoints, in both directions. With ``tos``, a packet whose
    type of service is not 0 belongs to a flow of its own direction and service instead. The 64-bit
    numbers are seeded, so that an attacker cannot make flows collide.
    """

    def __init__(self, tos: bool) -> None:
        self._service = 0xFE if tos else 0
        self._seed = secrets.randbits(64)

    def keys(
        self, buffer: NDArray[np.uint8], packets: PacketBatch, chosen: NDArray[np.intp]
    ) -> NDArray[np.uint64]:
        """Return the flow number of each ``chosen`` packet, shape (len(chosen),).

        All chosen packets must have an IP header.
        """
        return hash_flows(buffer, packets, chosen, self._seed, self._service)

    def of_fragments(self, items: NDArray[np.void]) -> NDArray[np.uint64]:
        """Return the flow of later IP fragments between the same addresses: they have no ports.

        ``items`` are of dtype `sensor.evidence.block.ITEM`, with an IP header.
        """
        count = len(items)
        addresses = np.concatenate([items["source"], items["destination"]], axis=1)
        short = np.flatnonzero(items["ip_version"] == 4)
        addresses[short, 4:8] = items["destination"][short, :4]
        nothing, no_ports = np.zeros(count, np.int64), np.zeros(count, np.uint16)
        packets = PacketBatch(
            status=np.zeros(count, np.uint8),
            ip_version=items["ip_version"],
            protocol=items["protocol"],
            tos=np.zeros(count, np.uint8),
            vlan_count=items["vlan_count"],
            vlan_tci=items["vlan_tci"],
            source_offset=np.arange(count) * addresses.shape[1],
            sport=no_ports,
            dport=no_ports,
            payload_start=nothing,
            payload_end=nothing,
            tcp_flags=np.zeros(count, np.uint8),
        )
        return self.keys(addresses.reshape(-1), packets, np.arange(count))
