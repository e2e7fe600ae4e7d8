"""The kernel's table of flows, seen from user space: keys, look-ups, verdicts. Runs in the supervisor.

The table is an array map of `abi.FLOW_SET`, mapped into memory; ``bpf/flow.h`` describes how it is shared.
User space writes its verdicts into words that the kernel only reads.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
import sys
from collections.abc import Sequence
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.capture import maps
from sensor.capture.kernel_structs import BPF_F_MMAPABLE, BPF_MAP_TYPE_ARRAY
from sensor.model import FiveTuple

_SEEDS = 14
_VLAN_ID = 0xFFF
_TOS_SERVICE = 0xFE
_U32 = 0xFFFFFFFF
_KEY = struct.Struct("=32s2s2sHHBBBB")
_KEY_WORDS = struct.Struct("=QQQQQI")
_VERSION = 42
"""Offset of the IP version in a key."""

FlowKey = bytes
"""An `abi.FLOW_KEY`, as it is in memory."""
IpAddress = IPv4Address | IPv6Address


def flow_key(
    protocol: int,
    source: IpAddress,
    destination: IpAddress,
    sport: int = 0,
    dport: int = 0,
    *,
    vlans: Sequence[int] = (),
    service: int = 0,
) -> FlowKey:
    """Return the key of a packet's flow, the same for both directions.

    Args:
        protocol: IP protocol number.
        source: Source address.
        destination: Destination address.
        sport: Source port; 0 for later fragments, and for protocols without ports.
        dport: Destination port, likewise.
        vlans: VLAN tags, outer first.
        service: Type of service, if it is part of the key (`ProgramOptions.flow_has_tos`). If it is not 0,
            each direction is a flow of its own.
    """
    return packed_flow_key(
        FiveTuple(protocol, source.packed, sport, destination.packed, dport), vlans, service & _TOS_SERVICE
    )


def packed_flow_key(ends: FiveTuple, vlans: Sequence[int] = (), service: int = 0) -> FlowKey:
    """Return the same, for a five-tuple."""
    protocol, source, sport, destination, dport = ends
    if not service and _endpoint(source, sport) > _endpoint(destination, dport):
        source, destination, sport, dport = destination, source, dport, sport
    tags = [tag & _VLAN_ID for tag in vlans] + [0, 0]
    version = 4 if len(source) == 4 else 6
    return _KEY.pack(
        source + destination,
        sport.to_bytes(2, "big"),
        dport.to_bytes(2, "big"),
        tags[0],
        tags[1],
        protocol,
        service,
        version,
        0,
    )


def _endpoint(address: bytes, port: int) -> tuple[int, ...]:
    """Return the numbers by which endpoints are ordered in a key: address and port as words in memory."""
    words = struct.unpack("=I" if len(address) == 4 else "=QQ", address)
    return *words, int.from_bytes(port.to_bytes(2, "big"), sys.byteorder)


class KernelFlow(NamedTuple):
    """A flow as the kernel remembers it."""

    packets: int
    """Number of packets with payload so far."""
    born_jiffies: int
    """Time of the first packet, in jiffies."""
    last_jiffies: int
    """Time of the last packet, in jiffies: the lower 32 bits."""
    verdict: abi.Verdict
    history_bytes: int
    """Bytes of its frames in the history."""


class _Place(NamedTuple):
    """The place of a flow in the table, and its version."""

    set: int
    way: int
    version: int


class KernelFlows:
    """The table of flows."""

    def __init__(self, flows: int) -> None:
        """Create the map, with room for ``flows`` flows, rounded up to whole sets.

        Raises:
            OSError: The kernel refused.
        """
        self.sets = -(-flows // abi.FLOW_WAYS)
        self.seeds = [secrets.randbits(64) for _ in range(_SEEDS)]
        """Random numbers, drawn for each table, so that an attacker cannot cause collisions."""
        self.fd = maps.create_array("flows", BPF_MAP_TYPE_ARRAY, abi.FLOW_SET, self.sets, BPF_F_MMAPABLE)

    def hash(self, key: FlowKey) -> int:
        """Return the hash of a key, 32 bits, like ``hash_of()`` in ``bpf/flow_key.h``."""
        *addresses, ports_and_vlan, rest = _KEY_WORDS.unpack(key)
        words = rest, ports_and_vlan, *(addresses[:1] if key[_VERSION] == 4 else addresses)
        total = 0
        for word, first, second in zip(words, self.seeds[2::2], self.seeds[3::2], strict=False):
            total += (first + (word & _U32)) * (second + (word >> 32))
        mixed = total >> 32 & _U32
        mixed ^= mixed >> 15
        return self.seeds[0] + self.seeds[1] * mixed >> 32 & _U32

    def find(self, key: FlowKey) -> KernelFlow | None:
        """Return what the kernel remembers of a flow, or None if it does not or is just writing it."""
        place = self._place(key)
        if place is None:
            return None
        found = self._table["flows"][place.set, place.way]
        last_jiffies = int(self._table["last_jiffies"][place.set, place.way])
        seen = KernelFlow(
            _number(found["packets"], place),
            int(found["born_jiffies"]),
            last_jiffies,
            abi.Verdict(_number(found["verdict"], place)),
            int(found["history_bytes"]),
        )
        return seen if found["version"] == place.version else None

    def set_verdict(self, key: FlowKey, verdict: abi.Verdict, *, frames: int = 0, until_ns: int = 0) -> bool:
        """Set the verdict on a flow. Return True if the kernel remembers the flow.

        The verdict ends with the flow, when that is over or forgotten.

        Args:
            key: Key of the flow.
            verdict: The verdict. ``FOLLOW`` makes every frame of the flow a candidate.
            frames: Largest number of frames to follow.
            until_ns: Monotonic time at which following ends.
        """
        place = self._place(key)
        if place is None:
            return False
        flow = self._table["flows"][place.set, place.way]
        flow["follow_until_ns"] = until_ns
        flow["follow_end"] = _number(flow["followed"], place) + frames & _U32
        # A single store, and the last one: from now on the kernel uses the fields above.
        self._verdicts[place.set, place.way] = place.version << 32 | verdict
        return bool(flow["version"] == place.version)

    def _place(self, key: FlowKey) -> _Place | None:
        hashed = self.hash(key)
        which, tag = hashed * self.sets >> 32, hashed & 0xFF or 1
        flows = self._table["flows"][which]
        for way in np.flatnonzero(self._table["tags"][which] == tag).tolist():
            version = int(flows["version"][way])
            if version % 2 == 0 and flows["key"][way].tobytes() == key:
                return _Place(which, way, version)
        return None

    @cached_property
    def _table(self) -> NDArray[np.void]:
        """The map itself, shape (sets,). It is mapped into this process on first use."""
        return np.frombuffer(mmap.mmap(self.fd, self.sets * abi.FLOW_SET.itemsize), abi.FLOW_SET)

    @cached_property
    def _verdicts(self) -> NDArray[np.uint64]:
        """Number and version of each way's verdict as one word, shape (sets, ways)."""
        return self._table["flows"]["verdict"].view(np.uint64)

    def close(self) -> None:
        """Close the map. The kernel keeps it as long as a program uses it."""
        os.close(self.fd)


def _number(versioned: Any, place: _Place) -> int:
    """Return a number kept for a flow, or 0 if it was written for another flow."""
    number, version = versioned.tolist()
    return int(number) if version == place.version else 0
