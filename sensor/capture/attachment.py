"""Attachment of the kernel program to network interfaces: check, attach, detach. Runs in the supervisor.

Programs are attached with a BPF link (Linux 5.9 and newer) instead of netlink. The kernel detaches the
program when the process ends, however it ends, and never replaces another owner's program.

A NIC drops frames for other hosts before XDP unless the interface is in promiscuous mode. We request that
with a packet socket (packet(7), ``PACKET_MR_PROMISC``): the kernel counts the requests, and withdraws one
when its process ends. The flag ``promisc`` of ``ip link`` would stay set for ever.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sensor.capture.interface import Interface, find_interface
from sensor.capture.refusals import Mode, hidden_tags, refusals
from sensor.capture.syscalls import link_create_xdp, link_detach
from sensor.errors import InterfaceError, KernelError, PrivilegeError

__all__ = ["Interface", "Mode", "attached", "check_interface", "find_interface"]

_XDP_FLAGS: dict[Mode, int] = {"generic": 1 << 1, "native": 1 << 2}  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
_BUSY = (errno.EBUSY, errno.EEXIST)
_NO_NATIVE_XDP = (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE, errno.ENOSPC, errno.ENOMEM, errno.EFAULT)
"""Errors of drivers whose MTU, queues or offloads do not allow native XDP."""

_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_DROP_MEMBERSHIP = 2
_PACKET_MR_PROMISC = 1

log = logging.getLogger(__name__)


def check_interface(name: str, mode: Mode, *, frags: bool = False) -> Interface:
    """Find an interface, and check that a program can be attached and would see frames unchanged.

    Args:
        name: Name of the interface.
        mode: Mode to attach in.
        frags: True if the program was loaded with ``BPF_F_XDP_HAS_FRAGS``, to read frames of several buffers.

    Raises:
        InterfaceError: There is no such interface, or something stands against it, see `refusals`.
    """
    interface = find_interface(name)
    for reason in refusals(interface, mode, frags=frags):
        raise InterfaceError(str(reason))
    for doubt in hidden_tags(interface):
        log.warning("%s", doubt)
    return interface


def needs_frags(name: str, mode: Mode) -> bool:
    """Return True if only a program that reads frames of several buffers can be attached to an interface.

    Raises:
        InterfaceError: There is no such interface.
    """
    interface = find_interface(name)
    return any(refusals(interface, mode)) and not any(refusals(interface, mode, frags=True))


@contextmanager
def attached(prog_fd: int, interface: Interface, mode: Mode) -> Iterator[int]:
    """Keep a program attached to an interface that is in promiscuous mode.

    Yields the link's file descriptor, through which the program can be replaced. At the end, program and
    mode are withdrawn at once, even if processes forked meanwhile hold copies of the descriptors.

    Raises:
        InterfaceError: The driver refuses native XDP, or another program was attached first.
        PrivilegeError: CAP_NET_RAW is missing.
        KernelError: The kernel refused for another reason.
    """
    with _promiscuous(interface):
        link_fd = _attach(prog_fd, interface, mode)
        try:
            yield link_fd
        finally:
            with suppress(OSError):  # the interface is gone
                link_detach(link_fd)
            os.close(link_fd)


def is_attached(link_fd: int) -> bool:
    """Return True if a link still has its interface (proc_pid_fdinfo). An administrator can detach it."""
    lines = Path(f"/proc/self/fdinfo/{link_fd}").read_text(encoding="ascii").splitlines()
    return not any(line.split() == ["ifindex:", "0"] for line in lines)


@contextmanager
def _promiscuous(interface: Interface) -> Iterator[None]:
    membership = struct.pack("iHH8x", interface.index, _PACKET_MR_PROMISC, 0)  # struct packet_mreq
    try:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: it receives nothing
    except PermissionError as error:
        raise PrivilegeError(
            f"{interface.name}: promiscuous mode needs CAP_NET_RAW: run this with sudo"
        ) from error
    with packets:
        try:
            packets.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
        except OSError as error:
            raise InterfaceError(
                f"{interface.name}: promiscuous mode could not be turned on: {error.strerror}; "
                "check that the interface exists: ip link"
            ) from error
        try:
            yield
        finally:
            with suppress(OSError):  # the interface is gone
                packets.setsockopt(_SOL_PACKET, _PACKET_DROP_MEMBERSHIP, membership)


def _attach(prog_fd: int, interface: Interface, mode: Mode) -> int:
    name = interface.name
    try:
        return link_create_xdp(prog_fd, interface.index, _XDP_FLAGS[mode])
    except OSError as error:
        if error.errno in _BUSY:
            raise InterfaceError(
                f"{name}: another XDP program is attached; see which: ip link show {name}"
            ) from error
        if mode == "native" and error.errno in _NO_NATIVE_XDP:
            raise InterfaceError(
                f"{name}: {interface.nic.driver or 'the kernel'} refuses native XDP ({error.strerror}), "
                f"usually because of the MTU (here {interface.mtu}; for veth, that of the other end) "
                "or the queues; see the reason: dmesg | tail; or use the slower --mode generic"
            ) from error
        raise KernelError(
            f"{name}: the kernel refused to attach the program in {mode} mode: {error.strerror}"
        ) from error
