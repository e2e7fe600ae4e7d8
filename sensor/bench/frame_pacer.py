"""Frames sent from user space at a steady pace, by a process of their own. Runs in ``sensor bench overload``.

A process may be sent in real time: the scheduler runs it before all ordinary processes of its CPU.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterable
from typing import NamedTuple

from sensor.process.child import FunctionProcess, finish
from sensor.process.prctl import end_with_parent

_WAIT_S = 0.001
_QUEUE_FULL_S = 0.0001


class Paced(NamedTuple):
    """The frames that were sent, and how punctually."""

    asked: float
    """Frames per second that were asked for."""
    frames: int
    octets: int
    seconds: float
    late_ms: float
    """The longest time by which a frame left too late."""

    @property
    def per_second(self) -> float:
        """The rate at which frames were really sent."""
        return self.frames / self.seconds


class FramePacer:
    """A process that sends frames out of an interface of the calling thread's network namespace."""

    def __init__(
        self,
        interface: str,
        frames: Iterable[bytes],
        per_second: float,
        seconds: float,
        cpu: int,
        *,
        urgent: bool,
    ) -> None:
        """Start sending for some seconds, from one CPU; before all ordinary processes if ``urgent``."""
        self._result, write_fd = os.pipe()
        arguments = (write_fd, interface, frames, per_second, seconds, cpu, urgent, os.getpid())
        try:
            self._process = FunctionProcess(_send, arguments, "sender of frames")
        finally:
            os.close(write_fd)

    @property
    def is_sending(self) -> bool:
        """True until all frames are sent."""
        return self._process.poll() is None

    def wait(self) -> Paced:
        """Wait until all frames are sent."""
        with open(self._result, "rb", closefd=False) as file:
            return Paced(**json.load(file))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        finish(self._process)
        os.close(self._result)


def _send(
    result_fd: int,
    interface: str,
    frames: Iterable[bytes],
    per_second: float,
    seconds: float,
    cpu: int,
    urgent: bool,
    parent: int,
) -> None:
    """Send frames when they are due, and write a `Paced` as JSON."""
    end_with_parent(parent)
    os.sched_setaffinity(0, {cpu})
    if urgent:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    sent = octets = 0
    late_s = 0.0
    total = int(per_second * seconds)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((interface, 0))
        start_s = time.monotonic()
        for frame in frames:
            due_s = start_s + sent / per_second
            while (now_s := time.monotonic()) < due_s:
                time.sleep(max(_WAIT_S, due_s - now_s))
            late_s = max(late_s, now_s - due_s)
            _send_frame(wire, frame)
            sent += 1
            octets += len(frame)
            if sent == total:
                break
        took_s = time.monotonic() - start_s
    with open(result_fd, "w") as file:
        json.dump(Paced(per_second, sent, octets, took_s, late_s * 1e3)._asdict(), file)


def _send_frame(wire: socket.socket, frame: bytes) -> None:
    """Send a frame; wait while the driver's queue is full."""
    while True:
        try:
            wire.send(frame)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            time.sleep(_QUEUE_FULL_S)
        else:
            return
