"""Attaching to network interfaces: check, attach, detach; runs in the supervisor.

Programs are attached by a BPF link (kernel 5.9 and newer), not by netlink: the kernel
detaches it when the process ends, however it ends, and never replaces a stranger's program.

A NIC drops frames for other hosts before XDP, unless something asks for all of them. A packet
socket does (packet(7), ``PACKET_MR_PROMISC``): the kernel counts who asks, and takes that back when the
socket's process ends; the flag ``promisc`` of ``ip link`` would stay for ever.
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

__all__ = ["Interface", "Mode", "attached", "find_interface", "ready_interface"]

_XDP_FLAGS: dict[Mode, int] = {"generic": 1 << 1, "native": 1 << 2}  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
_TAKEN = (errno.EBUSY, errno.EEXIST)
_NO_NATIVE_XDP = (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE, errno.ENOSPC, errno.ENOMEM, errno.EFAULT)
"""What drivers answer where MTU, queues or an offload of theirs stand against native XDP."""

_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_DROP_MEMBERSHIP = 2
_PACKET_MR_PROMISC = 1

log = logging.getLogger(__name__)


def ready_interface(name: str, mode: Mode, *, frags: bool = False) -> Interface:
    """Look an interface up and check that a program can be attached to it and would see frames as they came.

    Args:
        name: Of the interface.
        mode: To attach in.
        frags: The program takes frames of several buffers: it was loaded with ``BPF_F_XDP_HAS_FRAGS``.

    Raises:
        InterfaceError: It is missing, or the first of its `refusals`.
    """
    interface = find_interface(name)
    for reason in refusals(interface, mode, frags=frags):
        raise InterfaceError(str(reason))
    for doubt in hidden_tags(interface):
        log.warning("%s", doubt)
    return interface


def needs_frags(name: str, mode: Mode) -> bool:
    """Whether only a program that takes frames of several buffers can be attached to an interface.

    Raises:
        InterfaceError: It is missing.
    """
    interface = find_interface(name)
    return any(refusals(interface, mode)) and not any(refusals(interface, mode, frags=True))


@contextmanager
def attached(prog_fd: int, interface: Interface, mode: Mode) -> Iterator[int]:
    """Keep a program attached to an interface, and its NIC taking frames for other hosts too.

    Gives the link's fd, by which another program can take its place. At the end both are over at once,
    although processes that were forked meanwhile have the descriptors, too.

    Raises:
        InterfaceError: The driver refuses native XDP, or another program came first.
        PrivilegeError: CAP_NET_RAW is missing.
        KernelError: The kernel refused for another reason.
    """
    with _promiscuous(interface):
        link_fd = _attach(prog_fd, interface, mode)
        try:
            yield link_fd
        finally:
            with suppress(OSError):  # the interface went away
                link_detach(link_fd)
            os.close(link_fd)


def is_attached(link_fd: int) -> bool:
    """Whether a link still holds its interface (proc_pid_fdinfo): an administrator can force it off."""
    lines = Path(f"/proc/self/fdinfo/{link_fd}").read_text(encoding="ascii").splitlines()
    return not any(line.split() == ["ifindex:", "0"] for line in lines)


@contextmanager
def _promiscuous(interface: Interface) -> Iterator[None]:
    membership = struct.pack("iHH8x", interface.index, _PACKET_MR_PROMISC, 0)  # struct packet_mreq
    try:
        receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: it receives nothing
    except PermissionError as error:
        raise PrivilegeError(
            f"{interface.name}: taking frames for other hosts needs CAP_NET_RAW: run this with sudo"
        ) from error
    with receiver:
        try:
            receiver.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
        except OSError as error:
            raise InterfaceError(
                f"{interface.name}: cannot be made to take frames for other hosts: {error.strerror}; "
                "see whether it is there: ip link"
            ) from error
        try:
            yield
        finally:
            with suppress(OSError):  # the interface went away
                receiver.setsockopt(_SOL_PACKET, _PACKET_DROP_MEMBERSHIP, membership)


def _attach(prog_fd: int, interface: Interface, mode: Mode) -> int:
    name = interface.name
    try:
        return link_create_xdp(prog_fd, interface.index, _XDP_FLAGS[mode])
    except OSError as error:
        if error.errno in _TAKEN:
            raise InterfaceError(
                f"{name}: another XDP program is attached; look: ip link show {name}"
            ) from error
        if mode == "native" and error.errno in _NO_NATIVE_XDP:
            raise InterfaceError(
                f"{name}: {interface.nic.driver or 'the kernel'} refuses native XDP ({error.strerror}), most "
                f"often for the MTU (here {interface.mtu}; of veth, the other end's) or the queues; "
                "look for its reason: dmesg | tail; or accept the slower --mode generic"
            ) from error
        raise KernelError(f"{name}: the kernel refused to attach in {mode} mode: {error.strerror}") from error
