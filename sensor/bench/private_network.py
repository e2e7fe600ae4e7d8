"""An anonymous network namespace with a veth pair, for the demo, tests and measurements.

The namespace has no name and is held only by the processes in it: when they end, even by SIGKILL, the
kernel removes it with its interfaces and all programs attached to them.
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
    """Move the calling thread and the children it starts into a new network namespace.

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
"""Approximately the largest MTU at which XDP on veth gets a frame in a single buffer."""


def veth_pair(left: str, right: str, queues: int = 1) -> None:
    """Create two connected interfaces in this thread's namespace, and set them up.

    They send nothing by themselves: IPv6 is off, as the kernel's router and neighbour discovery would
    mix with the traffic. VLAN tags stay in the frames, as on a cable, instead of moving to metadata,
    which XDP does not see. With several ``queues`` each sending CPU has one of its own.
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
