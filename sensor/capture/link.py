"""Attaching to network interfaces: check, attach, detach; runs in the supervisor.

Programs are attached by a BPF link (kernel 5.9 and newer), not by netlink: the kernel
detaches it when the process ends, however it ends, and never replaces a stranger's program.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sensor.capture.interface import Interface, find_interface
from sensor.capture.refusals import Mode, hidden_tags, refusals
from sensor.capture.syscalls import link_create_xdp
from sensor.errors import InterfaceError, KernelError

__all__ = ["Interface", "Mode", "attached", "find_interface", "ready_interface"]

_XDP_FLAGS: dict[Mode, int] = {"generic": 1 << 1, "native": 1 << 2}  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
_TAKEN = (errno.EBUSY, errno.EEXIST)
_NO_NATIVE_XDP = (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE, errno.ENOSPC, errno.ENOMEM, errno.EFAULT)
"""What drivers answer where MTU, queues or an offload of theirs stand against native XDP."""

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
        raise InterfaceError(reason)
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
    """Keep a program attached to an interface; gives the link's fd, by which another can take its place.

    Raises:
        InterfaceError: The driver refuses native XDP, or another program came first.
        KernelError: The kernel refused for another reason.
    """
    link_fd = _attach(prog_fd, interface, mode)
    try:
        yield link_fd
    finally:
        os.close(link_fd)


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
