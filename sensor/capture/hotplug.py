"""CPUs that come up while the sensor captures. Runs in the supervisor.

A perf event ends for good when its CPU goes down. The kernel says that a CPU is back with a uevent
(lib/kobject_uevent.c), which arrives before most of its frames.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.capture.cpus import online_cpus
from sensor.capture.program import Program
from sensor.capture.ring import PerfRing
from sensor.capture.ring_set import RingSet
from sensor.errors import KernelError

log = logging.getLogger(__name__)

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_MESSAGE_BYTES = 8192
_CAME_UP = re.compile(rb"online@/devices/system/cpu/cpu(\d+)\0")


class RingKeeper:
    """Gives each CPU that comes up a ring, or its old ring a new perf event."""

    def __init__(
        self,
        program: Program,
        rings: RingSet,
        size_bytes: int,
        cpus: Callable[[], Iterable[int]] = online_cpus,
    ) -> None:
        """Watch from now on. ``size_bytes`` is the size of a new ring; ``cpus`` returns who needs one."""
        self._cpus = cpus
        self._program = program
        self._rings = rings
        self._size_bytes = size_bytes
        self._refused: set[int] = set()
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_KOBJECT_UEVENT)
        self._events.setblocking(False)
        self._events.bind((0, _KERNEL_GROUP))
        self._lost = self._lost_by_cpu()

    def renew(self) -> list[int]:
        """Give rings whose CPU was down a new perf event; return their CPUs. Call this often."""
        came_up = self._came_up()
        chosen = [ring for ring in self._rings.rings if ring.cpu in came_up]
        return self._renew(chosen)

    def check(self) -> list[int]:
        """Do what `renew` does for every CPU that loses frames, in case that its uevent was missed."""
        before, self._lost = self._lost, self._lost_by_cpu()
        cpus = np.flatnonzero(self._lost > before)
        return self._renew([ring for ring in self._rings.rings if ring.cpu in cpus])

    def missing(self) -> list[PerfRing]:
        """Open a ring for each CPU that needs one and has none; it is not connected yet.

        The log says once if the kernel refuses one; frames on that CPU are lost for want of a ring.
        """
        linktype, opened = self._rings.rings[0].linktype, []
        for cpu in set(self._cpus()) - {ring.cpu for ring in self._rings.rings} - self._refused:
            try:
                opened.append(PerfRing(cpu, self._size_bytes, linktype))
            except KernelError as error:
                self._refused.add(cpu)
                log.error("%s; frames there are lost", error)  # noqa: TRY400
        return opened

    def close(self) -> None:
        """Stop watching."""
        self._events.close()

    def _renew(self, rings: list[PerfRing]) -> list[int]:
        """Return the CPUs whose rings have a new event; not those that are down again."""
        renewed = []
        for ring in rings:
            with suppress(OSError, KernelError):  # the CPU is down again
                ring.renew_event()
                self._program.reconnect(ring)
                renewed.append(ring.cpu)
        return renewed

    def _came_up(self) -> set[int]:
        cpus: set[int] = set()
        while True:
            try:
                message = self._events.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return cpus
            except OSError:  # ENOBUFS: some were missed, which `check` makes up for
                continue
            if found := _CAME_UP.match(message):
                cpus.add(int(found[1]))

    def _lost_by_cpu(self) -> NDArray[np.uint64]:
        losses = self._program.counters_by_cpu()["losses"][:, :, abi.Loss.NO_RING]
        return np.asarray(losses.sum(axis=0), np.uint64)
