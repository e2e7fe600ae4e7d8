"""The wire that frames are replayed over: a private veth pair, or two interfaces that a cable connects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pyroute2 import IPRoute

from sensor.bench.private_network import VETH_MTU, private_network, veth_pair
from sensor.capture.attachment import find_interface
from sensor.capture.ring import online_cpus

SETTLED_S = 0.1
"""Frames that have not arrived so long after the last that did are not coming."""


class Wire(NamedTuple):
    """Its two ends, in the network namespace of the calling thread."""

    mirror: str
    """Where the sensor captures."""
    source: str
    """Where frames are sent."""
    mtu: int

    def received(self) -> int:
        """Return the frames that have arrived at the mirror's driver so far (rtnetlink(7), IFLA_STATS64)."""
        with IPRoute() as netlink:
            [index] = netlink.link_lookup(ifname=self.mirror)
            [link] = netlink.get_links(index)
            return int(link.get_attr("IFLA_STATS64")["rx_packets"])

    def settle(self, expected: int) -> int:
        """Wait until so many frames have arrived, or no more do; how many have."""
        received, since_s = self.received(), time.monotonic()
        while received < expected and time.monotonic() - since_s < SETTLED_S:
            now = self.received()
            if now != received:
                received, since_s = now, time.monotonic()
        return received


@contextmanager
def private_wire() -> Iterator[Wire]:
    """Make a veth pair in a network namespace that ends with this process and its children.

    Raises:
        PrivilegeError: CAP_SYS_ADMIN is missing.
    """
    with private_network():
        veth_pair("mirror", "source", queues=len(online_cpus()))
        yield Wire("mirror", "source", VETH_MTU)


@contextmanager
def looped_wire(mirror: str, source: str) -> Iterator[Wire]:
    """Take two interfaces of this host; whether a cable connects them shows when frames arrive.

    Raises:
        InterfaceError: One of them is missing.
    """
    for name in (mirror, source):
        find_interface(name)
    with IPRoute() as netlink:
        [index] = netlink.link_lookup(ifname=source)
        [link] = netlink.get_links(index)
    yield Wire(mirror, source, int(link.get_attr("IFLA_MTU")))
