"""The wire frames are replayed over: a private veth pair, or two interfaces connected by a cable.

Runs in ``sensor bench replay``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pyroute2 import IPRoute

from sensor.bench.private_network import VETH_MTU, private_network, veth_pair
from sensor.capture.attachment import find_interface
from sensor.capture.cpus import online_cpus

SETTLED_S = 0.1
"""Time without a new frame after which the frames still missing count as lost."""


class Wire(NamedTuple):
    """Two connected interfaces in the network namespace of the calling thread."""

    mirror: str
    """The interface the sensor captures on."""
    source: str
    """The interface frames are sent from."""
    mtu: int

    def received(self) -> int:
        """Return the number of frames the mirror's driver has received (rtnetlink(7), IFLA_STATS64)."""
        with IPRoute() as netlink:
            [index] = netlink.link_lookup(ifname=self.mirror)
            [link] = netlink.get_links(index)
            return int(link.get_attr("IFLA_STATS64")["rx_packets"])

    def settle(self, expected: int) -> int:
        """Wait until ``expected`` frames have arrived or no more do, and return the number received."""
        received, changed_s = self.received(), time.monotonic()
        while received < expected and time.monotonic() - changed_s < SETTLED_S:
            now = self.received()
            if now != received:
                received, changed_s = now, time.monotonic()
        return received


@contextmanager
def private_wire() -> Iterator[Wire]:
    """Create a veth pair in a network namespace that ends with this process and its children.

    Raises:
        PrivilegeError: CAP_SYS_ADMIN is missing.
    """
    with private_network():
        veth_pair("mirror", "source", queues=len(online_cpus()))
        yield Wire("mirror", "source", VETH_MTU)


@contextmanager
def looped_wire(mirror: str, source: str) -> Iterator[Wire]:
    """Use two interfaces of this host; a missing cable between them is noticed when no frames arrive.

    Raises:
        InterfaceError: one of the interfaces is missing.
    """
    mirror, source = find_interface(mirror).name, find_interface(source).name  # they may be alternative names
    with IPRoute() as netlink:
        [index] = netlink.link_lookup(ifname=source)
        [link] = netlink.get_links(index)
    yield Wire(mirror, source, int(link.get_attr("IFLA_MTU")))
