"""Network interfaces as XDP sees them: look, attach, detach; runs in the supervisor.

Programs are attached by a BPF link (kernel 5.9 and newer), not by netlink: the kernel
detaches it when the process ends, however it ends, and never replaces a stranger's program.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pyroute2 import IPRoute

from sensor.capture.syscalls import link_create_xdp
from sensor.errors import InterfaceError, KernelError

Mode = Literal["native", "generic"]

_XDP_FLAGS: dict[Mode, int] = {"generic": 1 << 1, "native": 1 << 2}  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
_TAKEN = (errno.EBUSY, errno.EEXIST)
_NO_NATIVE_XDP = (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE)


@dataclass(frozen=True, slots=True)
class Interface:
    """What the kernel says of an interface (rtnetlink)."""

    name: str
    index: int
    has_carrier: bool
    mtu: int
    xdp_program_id: int | None
    """The program attached now, whoever attached it."""


def find_interface(name: str) -> Interface:
    """Look an interface up.

    Raises:
        InterfaceError: There is none of this name.
    """
    with IPRoute() as netlink:
        found = [link for link in netlink.get_links() if link.get_attr("IFLA_IFNAME") == name]
        if not found:
            names = ", ".join(sorted(link.get_attr("IFLA_IFNAME") for link in netlink.get_links()))
            raise InterfaceError(f"{name}: there is no such interface; this host has {names}")
    link = found[0]
    xdp = link.get_attr("IFLA_XDP")
    return Interface(
        name=name,
        index=link["index"],
        has_carrier=bool(link.get_attr("IFLA_CARRIER")),
        mtu=link.get_attr("IFLA_MTU"),
        xdp_program_id=(xdp.get_attr("IFLA_XDP_PROG_ID") or None) if xdp else None,
    )


def ready_interface(name: str) -> Interface:
    """Look an interface up and check that a program can be attached to it and would see frames.

    Raises:
        InterfaceError: It is missing, has no carrier, or has a program of somebody else's.
    """
    interface = find_interface(name)
    if not interface.has_carrier:
        raise InterfaceError(
            f"{name}: no carrier, so nothing can be captured; "
            f"plug the cable in or bring it up: ip link set {name} up"
        )
    if interface.xdp_program_id is not None:
        raise InterfaceError(
            f"{name}: XDP program {interface.xdp_program_id} is attached already (another sensor?); "
            f"look: bpftool prog show id {interface.xdp_program_id}; remove it: ip link set {name} xdp off"
        )
    return interface


@contextmanager
def attached(prog_fd: int, interface: Interface, mode: Mode) -> Iterator[None]:
    """Keep a program attached to an interface.

    Raises:
        InterfaceError: The driver has no native XDP, or another program came first.
        KernelError: The kernel refused for another reason.
    """
    link_fd = _attach(prog_fd, interface, mode)
    try:
        yield
    finally:
        os.close(link_fd)


def _attach(prog_fd: int, interface: Interface, mode: Mode) -> int:
    try:
        return link_create_xdp(prog_fd, interface.index, _XDP_FLAGS[mode])
    except OSError as error:
        if error.errno in _TAKEN:
            raise InterfaceError(
                f"{interface.name}: another XDP program is attached; look: ip link show {interface.name}"
            ) from error
        if mode == "native" and error.errno in _NO_NATIVE_XDP:
            raise InterfaceError(
                f"{interface.name}: the driver has no native XDP, or MTU {interface.mtu} is too large for it "
                f"({error.strerror}); lower the MTU, or accept the slower --mode generic"
            ) from error
        raise KernelError(
            f"{interface.name}: the kernel refused to attach in {mode} mode: {error.strerror}"
        ) from error
