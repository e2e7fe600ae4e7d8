"""Which packets are looked at by their addresses: networks that are included and excluded.

Runs in the capture workers and in ``sensor read``. ``bpf/prefilter.c`` decides the same, by the same
law, of all packets whose addresses it sees.
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
    """The longest match of each address counts.

    A packet is not looked at that has an excluded address, or, where networks are included, no
    included one.
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
        """Return those of the ``chosen`` packets, all with an IP header, that are looked at."""
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
        """Say what the longest match means of addresses, shape (n, bytes)."""
        found = np.full(len(addresses), self._otherwise, np.uint8)
        for network, meaning in self._shortest_first:
            if network.version == version:
                mask = np.frombuffer(network.netmask.packed, np.uint8)
                base = np.frombuffer(network.network_address.packed, np.uint8)
                found[((addresses & mask) == base).all(axis=1)] = meaning
        return found


EVERYWHERE = Networks()
"""All packets are looked at."""
