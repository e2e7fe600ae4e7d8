"""Network interfaces as the kernel describes them. Runs in the supervisor and in ``sensor doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyroute2 import IPRoute

from sensor.capture.nic import Nic, names_of, read_nic
from sensor.errors import InterfaceError
from sensor.model import LinkType

_ETHERNET_TYPES = {1, 772}
"""``ARPHRD_ETHER`` and ``ARPHRD_LOOPBACK`` (linux/if_arp.h), whose frames have an Ethernet header."""
_RAW_IP_DRIVERS = {"gre", "ip6gre", "ip6tnl", "ipip", "ppp", "sit", "tun", "wireguard"}
"""Drivers that hand the kernel packets which begin with an IP header, if the type is not one of the above."""


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
    linktype: LinkType | None = LinkType.ETHERNET
    """Link type of its frames; None: they have a header that is not decoded."""


def find_interface(name: str) -> Interface:
    """Return the interface that has this name, or this alternative name (``ip link property``).

    Raises:
        InterfaceError: There is no such interface.
    """
    with IPRoute() as netlink:
        links = {names_of(link)[0]: link for link in netlink.get_links()}
    link = next((link for link in links.values() if name in names_of(link)), None)
    if link is None:
        raise InterfaceError(f"{name}: there is no such interface; this host has {', '.join(sorted(links))}")
    xdp = link.get_attr("IFLA_XDP")
    nic = read_nic(link)
    names = {other["index"]: name for name, other in links.items()}
    has_peer = nic.driver == "veth" and link.get_attr("IFLA_LINK_NETNSID") is None
    return Interface(
        name=names_of(link)[0],
        index=link["index"],
        has_carrier=bool(link.get_attr("IFLA_CARRIER")),
        mtu=link.get_attr("IFLA_MTU"),
        xdp_program_id=(xdp.get_attr("IFLA_XDP_PROG_ID") or None) if xdp else None,
        peer=names.get(link.get_attr("IFLA_LINK")) if has_peer else None,
        nic=nic,
        linktype=_linktype(link["ifi_type"], nic.driver),
    )


def _linktype(device_type: int, driver: str | None) -> LinkType | None:
    if device_type in _ETHERNET_TYPES:
        return LinkType.ETHERNET
    return LinkType.RAW if driver in _RAW_IP_DRIVERS else None


def find_peer(interface: Interface) -> Interface | None:
    """Return the other end of a veth pair, or None if there is none in this network namespace."""
    return find_interface(interface.peer) if interface.peer else None


def default_workers(interfaces: Sequence[Interface], online_cpus: int) -> int:
    """Return how many workers can be kept busy: one per CPU that a receive queue can run on, at least one."""
    queues = sum(interface.nic.receive_queues for interface in interfaces)
    return max(1, min(online_cpus, queues))
