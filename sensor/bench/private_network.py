"""A network of one's own: an anonymous namespace with a veth pair; for the demo, tests and benchmarks.

The namespace has no name and is held by nothing but the processes in it: when they end,
even by SIGKILL, the kernel removes it with its interfaces and what is attached to them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import IoctlEthtool

from sensor.capture.syscalls import CLONE_NEWNET, setns, unshare
from sensor.errors import PrivilegeError


@contextmanager
def private_network() -> Iterator[None]:
    """Move the calling thread, and the children it starts, into a new network namespace.

    Raises:
        PrivilegeError: CAP_SYS_ADMIN is missing.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            unshare(CLONE_NEWNET)
        except OSError as error:
            if error.errno == errno.EPERM:
                raise PrivilegeError("a network namespace needs root: run this with sudo") from error
            raise
        try:
            with IPRoute() as netlink:
                netlink.link("set", index=1, state="up")
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


VETH_MTU = 3500
"""About the most that XDP takes in a single buffer on veth."""


def veth_pair(left: str, right: str, queues: int = 1) -> None:
    """Create two connected interfaces in this thread's namespace, up, and silent by themselves.

    IPv6 is off on both: its router and neighbour discovery would mix frames of the kernel's
    own into the traffic. VLAN tags are part of the frames, as on a cable, not a note beside them
    that XDP does not see. Of several ``queues`` each CPU that sends has one of its own.
    """
    size = {"num_tx_queues": queues, "num_rx_queues": queues}
    with IPRoute() as netlink:
        netlink.link("add", ifname=left, kind="veth", peer={"ifname": right, **size}, **size)
        for name in (left, right):
            disable_ipv6 = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
            if disable_ipv6.exists():
                disable_ipv6.write_text("1")
            index = netlink.link_lookup(ifname=name)[0]
            netlink.link("set", index=index, mtu=VETH_MTU, state="up", arp=False)
            with closing(IoctlEthtool(name)) as ethtool:
                features = ethtool.get_features()
                features["tx-vlan-hw-insert"] = False
                ethtool.set_features(features)
