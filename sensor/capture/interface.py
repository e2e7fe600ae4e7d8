"""Network interfaces as the kernel describes them. Runs in the supervisor and in ``sensor doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyroute2 import IPRoute

from sensor.capture.nic import Nic, read_nic
from sensor.errors import InterfaceError


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface, as rtnetlink and its driver describe it."""

    name: str
    index: int
    has_carrier: bool
    mtu: int
    xdp_program_id: int | None
    """ID of the XDP program attached to it, by this or another process; None: there is none."""
    peer: str | None
    """Name of the other end of a veth pair, if it is in this network namespace."""
    nic: Nic


def find_interface(name: str) -> Interface:
    """Return the interface of this name.

    Raises:
        InterfaceError: There is no such interface.
    """
    with IPRoute() as netlink:
        links = {link.get_attr("IFLA_IFNAME"): link for link in netlink.get_links()}
    if name not in links:
        raise InterfaceError(f"{name}: there is no such interface; this host has {', '.join(sorted(links))}")
    link = links[name]
    xdp = link.get_attr("IFLA_XDP")
    nic = read_nic(link)
    names = {other["index"]: name for name, other in links.items()}
    has_peer = nic.driver == "veth" and link.get_attr("IFLA_LINK_NETNSID") is None
    return Interface(
        name=name,
        index=link["index"],
        has_carrier=bool(link.get_attr("IFLA_CARRIER")),
        mtu=link.get_attr("IFLA_MTU"),
        xdp_program_id=(xdp.get_attr("IFLA_XDP_PROG_ID") or None) if xdp else None,
        peer=names.get(link.get_attr("IFLA_LINK")) if has_peer else None,
        nic=nic,
    )


def find_peer(interface: Interface) -> Interface | None:
    """Return the other end of a veth pair, or None if there is none in this network namespace."""
    return find_interface(interface.peer) if interface.peer else None


def default_workers(interfaces: Sequence[Interface], online_cpus: int) -> int:
    """Return how many workers can be kept busy: one per CPU that a receive queue can run on, at least one."""
    queues = sum(interface.nic.receive_queues for interface in interfaces)
    return max(1, min(online_cpus, queues))
