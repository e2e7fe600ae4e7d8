"""The faults of a soak. Each fault does its harm, waits a moment, and undoes it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

from processes import children
from pyroute2 import IPRoute

from sensor.bench.private_network import veth_pair
from tests.soak.site import PORTS, Site

_FLOODERS = 200
_CPU = Path("/sys/devices/system/cpu/cpu1/online")

Fault = Callable[[Site, Random], None]


class _Kind(NamedTuple):
    """A fault, and what it needs for itself: faults of one resource never happen at the same time."""

    harm: Fault
    resource: str


def wait(site: Site, rng: Random, longest_s: float = 3) -> None:
    """Let the harm last, or be over at once at the end of the soak."""
    site.over.wait(rng.uniform(0.1, longest_s))


def _signal_child(site: Site, rng: Random, name: str, number: int) -> int:
    """Send a signal to a child of this name, and return its process id; 0 if there is none."""
    chosen = rng.choice(children(site.pid, name) or [0])
    if chosen:
        with suppress(ProcessLookupError):
            os.kill(chosen, number)
    return chosen


def worker_killed(site: Site, rng: Random) -> None:
    """Kill a worker."""
    _signal_child(site, rng, "sensor-worker", signal.SIGKILL)


def worker_stopped(site: Site, rng: Random) -> None:
    """Stop a worker at any instruction; nobody continues it."""
    _signal_child(site, rng, "sensor-worker", signal.SIGSTOP)


def indexer_killed(site: Site, rng: Random) -> None:
    """Kill the process that writes the index."""
    _signal_child(site, rng, "sensor-index", signal.SIGKILL)


def child_killed(site: Site, rng: Random) -> None:
    """Kill a child of any kind."""
    _signal_child(site, rng, "", signal.SIGKILL)


def child_stopped(site: Site, rng: Random) -> None:
    """Stop a child of any kind, and continue it unless it was replaced meanwhile."""
    stopped = _signal_child(site, rng, "", signal.SIGSTOP)
    wait(site, rng)
    if stopped in children(site.pid):
        os.kill(stopped, signal.SIGCONT)


def disk_filled(site: Site, rng: Random) -> None:
    """Leave no space on the disk."""
    try:
        site.disk.fill()
        wait(site, rng)
    finally:
        site.disk.clear()


def disk_replaced(site: Site, rng: Random) -> None:
    """Break the disk, and mount a new one in its place."""
    site.disk.fail()
    wait(site, rng)
    site.disk.replace()


def port_down(site: Site, rng: Random) -> None:
    """Set a port down, and up again."""
    with IPRoute() as netlink:
        for index in netlink.link_lookup(ifname=PORTS[1].mirror):
            netlink.link("set", index=index, state="down")
            wait(site, rng)
            netlink.link("set", index=index, state="up")


def port_removed(site: Site, rng: Random) -> None:
    """Remove a port, and make one of the same name."""
    with IPRoute() as netlink:
        for index in netlink.link_lookup(ifname=PORTS[1].mirror):
            netlink.link("del", index=index)
    wait(site, rng)
    veth_pair(*PORTS[1])


def cpu_offline(site: Site, rng: Random) -> None:
    """Take a CPU off line."""
    _CPU.write_text("0")
    try:
        wait(site, rng, 1)
    finally:
        _CPU.write_text("1")


def index_removed(site: Site, rng: Random) -> None:
    """Remove the index of a day, with the files that belong to it."""
    for path in site.evidence.glob("*/*.sqlite*"):
        path.unlink(missing_ok=True)


def api_flooded(site: Site, rng: Random) -> None:
    """Ask the API and the metrics for more than they can do, and go away without waiting."""
    requests = [
        "GET /api/v1/evidence/histogram HTTP/1.1\r\nHost: 127.0.0.1:8321\r\n\r\n",
        "GET /api/v1/evidence?text=union HTTP/1.1\r\nHost: 127.0.0.1:8321\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9321\r\n\r\n",
        "GET / HTT",
    ]
    opened = []
    for _ in range(_FLOODERS):
        client = socket.socket()
        client.settimeout(1)
        opened.append(client)
        with suppress(OSError):
            client.connect(("127.0.0.1", rng.choice((8321, 9321))))
            client.sendall(rng.choice(requests).encode())
    wait(site, rng)
    for client in opened:
        client.close()


def rules_reloaded(site: Site, rng: Random) -> None:
    """Ask for the rules to be loaded again, sometimes twice, and sometimes with a faulty file."""
    faulty = site.rules / "os.json"
    before = faulty.read_bytes()
    if rng.random() < 0.5:
        faulty.write_bytes(b"{")
    for _ in range(rng.choice((1, 2))):
        os.kill(site.pid, signal.SIGHUP)
        wait(site, rng, 1)
    wait(site, rng)
    faulty.write_bytes(before)


_KINDS = {
    harm.__name__: _Kind(harm, resource)
    for harm, resource in (
        (worker_killed, "worker"),
        (worker_stopped, "worker"),
        (indexer_killed, "indexer"),
        (child_killed, "child"),
        (child_stopped, "child"),
        (disk_filled, "disk"),
        (disk_replaced, "disk"),
        (port_down, "port"),
        (port_removed, "port"),
        (cpu_offline, "cpu"),
        (index_removed, "disk"),
        (api_flooded, "api"),
        (rules_reloaded, "rules"),
    )
}
NAMES = tuple(_KINDS)


class FaultMaker:
    """Makes faults at random, from several threads."""

    def __init__(self, site: Site, names: tuple[str, ...], rest_s: float, seed: int) -> None:
        """Let each thread rest for ``rest_s`` after a fault, on average."""
        self.counts = dict.fromkeys(names, 0)
        self.errors: list[str] = []
        self._site, self._rest_s, self._seed = site, rest_s, seed
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def run_thread(self, number: int) -> None:
        """Make faults until the soak is over; each kind before any of them is repeated."""
        rng = Random(f"{self._seed} {number}")
        while not self._site.over.wait(rng.expovariate(1 / self._rest_s)):
            name = self._take(rng)
            if not name:
                continue
            print(f"{self._site.elapsed_s:8.1f} s  {name}", flush=True)
            try:
                _KINDS[name].harm(self._site, rng)
            except Exception as error:  # the verdict says so, and the soak goes on
                self.errors.append(f"{name} could not be done: {error!r}")
            with self._lock:
                self._busy.discard(_KINDS[name].resource)

    def _take(self, rng: Random) -> str | None:
        with self._lock:
            free = [name for name in self.counts if _KINDS[name].resource not in self._busy]
            if not free:
                return None
            least = min(self.counts[name] for name in free)
            name = rng.choice([name for name in free if self.counts[name] == least])
            self.counts[name] += 1
            self._busy.add(_KINDS[name].resource)
            return name
