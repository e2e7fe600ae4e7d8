"""Select packets by their addresses: networks to include and networks to exclude.

Runs in the capture workers and in ``sensor read``. ``bpf/prefilter.c`` decides the same, by the same
rules, for all packets whose addresses it sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.model import PacketBatch

IpNetwork = IPv4Network | IPv6Network
_WIDTHS = {4: 4, 6: 16}


class Networks:
    """The networks to watch. For each address, the longest matching prefix wins.

    A packet is skipped if one of its addresses is excluded. If there are included networks, it is also
    skipped if none of its addresses is included.
    """

    def __init__(self, include: Iterable[IpNetwork] = (), exclude: Iterable[IpNetwork] = ()) -> None:
        self.include, self.exclude = tuple(include), tuple(exclude)
        meanings = dict.fromkeys(self.include, abi.Network.INCLUDED)
        meanings.update(dict.fromkeys(self.exclude, abi.Network.EXCLUDED))
        self._shortest_first = sorted(meanings.items(), key=lambda entry: entry[0].prefixlen)
        self._otherwise = abi.Network.OUTSIDE if self.include else abi.Network.NONE

    def watched(
        self, octets: NDArray[np.uint8], packets: PacketBatch, chosen: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        """Return the ``chosen`` packets that are watched; all chosen packets must have an IP header."""
        if not self._shortest_first:
            return chosen
        keep = np.ones(len(chosen), np.bool_)
        versions = packets.ip_version[chosen]
        for version, width in _WIDTHS.items():
            of_version = np.flatnonzero(versions == version)
            start = packets.source_offset[chosen[of_version], None]
            source, destination = (
                self._meanings(octets[start + first + np.arange(width)], version) for first in (0, width)
            )
            excluded = (source == abi.Network.EXCLUDED) | (destination == abi.Network.EXCLUDED)
            outside = (source == abi.Network.OUTSIDE) & (destination == abi.Network.OUTSIDE)
            keep[of_version] = ~(excluded | outside)
        return chosen[keep]

    def _meanings(self, addresses: NDArray[np.uint8], version: int) -> NDArray[np.uint8]:
        """Return what the longest matching prefix means (`abi.Network`) for addresses of shape (n, bytes)."""
        found = np.full(len(addresses), self._otherwise, np.uint8)
        for network, meaning in self._shortest_first:
            if network.version == version:
                mask = np.frombuffer(network.netmask.packed, np.uint8)
                base = np.frombuffer(network.network_address.packed, np.uint8)
                found[((addresses & mask) == base).all(axis=1)] = meaning
        return found


EVERYWHERE = Networks()
"""No restriction: all packets are watched."""
