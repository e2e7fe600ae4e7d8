"""Sends the marked packet: from a port connected to the captured one, or into the attached program."""

from __future__ import annotations

import os
import socket

from sensor.capture.interface import Interface
from sensor.capture.syscalls import prog_open, prog_receive
from sensor.errors import InterfaceError, PrivilegeError


def send(source: str, frame: bytes) -> None:
    """Send a frame from a port that is connected to the captured one.

    Raises:
        PrivilegeError: CAP_NET_RAW is missing.
        InterfaceError: The port cannot send.
    """
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind((source, 0))
            sender.send(frame)
    except PermissionError as error:
        raise PrivilegeError(f"{source}: sending needs CAP_NET_RAW: run this with sudo") from error
    except OSError as error:
        raise InterfaceError(f"{source}: cannot send: {error.strerror}; check it with: ip link") from error


def loop(port: Interface, frame: bytes, cpu: int) -> None:
    """Run the program attached to a port on a frame, as if the port had received it on a CPU.

    Raises:
        PrivilegeError: CAP_SYS_ADMIN is missing.
        InterfaceError: The port has no program, or the kernel refuses.
    """
    cpus = os.sched_getaffinity(0)
    try:
        program_fd = prog_open(port.xdp_program_id or 0)
        try:
            os.sched_setaffinity(0, {cpu})
            prog_receive(program_fd, frame, port.index)
        finally:
            os.sched_setaffinity(0, cpus)
            os.close(program_fd)
    except PermissionError as error:
        raise PrivilegeError(
            f"{port.name}: its program can be run by root only: run this with sudo"
        ) from error
    except OSError as error:
        raise InterfaceError(
            f"{port.name}: the kernel does not run its program: {error.strerror}; send the packet through a "
            "cable instead: --from PORT"
        ) from error
