"""The place of a soak: a sensor on two ports with traffic, its disk and its rules."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import IPRoute

from sensor.bench.private_network import veth_pair
from tests.soak.small_disk import SmallDisk
from tests.soak.traffic import Sender

ROOT = Path(__file__).parents[2]
START_S = 120
END_S = 120


class Port(NamedTuple):
    """A port of the sensor, and the interface that sends to it."""

    mirror: str
    source: str


PORTS = (Port("mirror0", "source0"), Port("mirror1", "source1"))
_FRAMES_PER_SECOND = 1500
"""To each port: a rate at which two busy CPUs need not lose anything."""


class Site:
    """A running sensor, and what can be done to it."""

    def __init__(self, directory: Path, disk_mib: int, rules: Path) -> None:
        self.rules = directory / "rules"
        shutil.copytree(rules, self.rules)
        self.disk = SmallDisk(directory / "images", directory / "disk", disk_mib)
        self.evidence = self.disk.directory / "cap"
        self.log = directory / "log"
        self.over = threading.Event()
        self._started_s = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the site was made."""
        return time.monotonic() - self._started_s

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        assert self._process
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """False if the sensor has ended by itself."""
        return self._process is not None and self._process.poll() is None

    def start(self, clock_steps: Sequence[tuple[int, int, int]]) -> None:
        """Start the sensor, with a clock that is wrong at times, and wait until it captures.

        Raises:
            RuntimeError: It does not.
        """
        ports = [word for port in PORTS for word in ("-i", port.mirror)]
        command = [sys.executable, str(Path(__file__).with_name("soaked_sensor.py")), json.dumps(clock_steps)]
        command += ["run", *ports, "--workers", "2", "--evidence", str(self.evidence)]
        command += ["--rules", str(self.rules), "--retain-days", "1", "--retain-free-percent", "0"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True, cwd=ROOT
            )
        deadline_s = time.monotonic() + START_S
        while "capturing on" not in self.log.read_text():
            if not self.is_running or time.monotonic() > deadline_s:
                raise RuntimeError(f"the sensor does not start: {self.log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> int:
        """Interrupt the sensor as a user would, and return its exit code.

        Raises:
            subprocess.TimeoutExpired: It does not end; it is killed.
        """
        assert self._process
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(END_S)
        finally:
            self._process.kill()
            self._process.wait()

    def counters(self) -> dict[str, Any]:
        """Return the final counters, from the log."""
        line = next(line for line in self.log.read_text().splitlines() if "counters: " in line)
        return dict(json.loads(line.split("counters: ", 1)[1]))


@contextmanager
def traffic_on_ports(capture: Path) -> Iterator[None]:
    """Send to all ports for the duration of the block."""
    senders = [Sender(port.source, capture, _FRAMES_PER_SECOND) for port in PORTS]
    try:
        yield
    finally:
        for sender in senders:
            sender.stop()


def make_ports() -> None:
    """Make the ports in this process' network namespace."""
    with IPRoute() as netlink:
        netlink.link("set", index=1, state="up")
    for port in PORTS:
        veth_pair(*port)


def faults_of_log(lines: Sequence[str]) -> list[str]:
    """Return the errors that nobody handled, as tracebacks end, and how often each is there."""
    found = Counter(line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line))
    return [f"{count} times in the log: {line}" for line, count in found.items()]
