"""Runs `sensor run` and tcpreplay as processes, and collects their results.

All of them run in the network namespace of the calling thread.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from processes import TIMEOUT_S, children, wait_until
from pyroute2 import IPRoute

from sensor.metrics.figures import Figures, ask
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.prefilter.plan import Plan
from sensor.rules.prefilter.tables import kernel_plan

SENSOR = [sys.executable, "-m", "sensor"]
METRICS = "127.0.0.1:9321"
PASS_ALL = kernel_plan(Plan.pass_all(), RFC9110)
"""A plan that passes every payload."""


@dataclass
class Run:
    """A running, then finished, ``sensor run --json``."""

    process: subprocess.Popen[str]
    evidence: Path
    output: IO[str]
    log: list[str] = field(default_factory=list)
    matches: list[dict[str, Any]] = field(default_factory=list)

    def stop(self) -> int:
        """Interrupt it, as a user would, and return its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        _, err = self.process.communicate(timeout=TIMEOUT_S)
        self.output.seek(0)
        self.matches = [json.loads(line) for line in self.output]
        self.log += err.splitlines()
        return self.process.returncode

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers that have set their names."""
        return children(self.process.pid, "sensor-worker")

    def wait_for_workers(self, count: int) -> list[int]:
        """Wait until ``count`` workers run and return their process ids."""
        wait_until(lambda: len(self.workers) == count)
        return self.workers

    @property
    def counters(self) -> dict[str, Any]:
        """The final counters, from its log."""
        line = next(line for line in self.log if "counters: " in line)
        return dict(json.loads(line.split("counters: ", 1)[1]))

    @property
    def files(self) -> list[Path]:
        """Its evidence files."""
        return sorted(self.evidence.glob("*/*.pcap*"))


def context_among(files: list[Path]) -> list[Path]:
    """Return the evidence files that have the context of matches."""
    return [file for file in files if "-context" in file.name]


def hits_among(files: list[Path]) -> list[Path]:
    """Return the evidence files that have matches."""
    return [file for file in files if "-context" not in file.name]


@contextmanager
def running(interface: str, evidence: Path, *flags: str) -> Iterator[Run]:
    """Start ``sensor run``, without the API unless flags say otherwise, and wait until it captures."""
    command = [*SENSOR, "run", "-i", interface, "--evidence", str(evidence), "--json", "--no-api", *flags]
    with (
        TemporaryFile("w+") as output,  # a pipe that is not read meanwhile would stall the sensor
        subprocess.Popen(
            command, stdout=output, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process,
    ):
        run = Run(process, evidence, output)
        try:
            assert process.stderr
            for line in process.stderr:
                run.log.append(line.rstrip())
                if "capturing on" in line:
                    break
            yield run
        finally:
            process.kill()


def on_terminal(command: Sequence[str], **options: Any) -> str:
    """Run a command with a terminal as standard error; return what it wrote there."""
    leader, follower = os.openpty()
    drawn = b""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower, **options) as process:
        os.close(follower)
        with suppress(OSError):  # EIO: the last process has closed its end
            while chunk := os.read(leader, 65536):
                drawn += chunk
    os.close(leader)
    assert process.returncode == 0
    return drawn.decode()


def replay(interface: str, pcap: Path, pps: int = 20_000, cpu: int = 0) -> None:
    """Send a capture file with tcpreplay from one CPU, since frames in different rings have no order."""
    pinned = ["taskset", "--cpu-list", str(cpu)]
    command = ["tcpreplay", "--quiet", "--preload-pcap", f"--pps={pps}", f"--intf1={interface}", str(pcap)]
    subprocess.run([*pinned, *command], check=True, capture_output=True, timeout=TIMEOUT_S)


def ask_until(holds: Callable[[Figures], object]) -> Figures:
    """Ask for metrics until ``holds`` is true of them; most are published five times per second."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        figures = ask(METRICS)
        if holds(figures):
            return figures
    raise AssertionError(figures.samples)


def wait_until_received(interface: str, frames: int) -> None:
    """Wait until the interface has received ``frames`` frames since it was created.

    tcpreplay returns when all frames are sent; the last may still be in the softirq.
    """
    for _ in range(TIMEOUT_S * 1000):
        if (received := received_by(interface)) >= frames:
            return
        time.sleep(0.001)
    raise AssertionError(f"{interface} received {received} of {frames} frames")


def received_by(interface: str) -> int:
    """Return the number of frames that the interface has received since it was created."""
    with IPRoute() as netlink:
        [link] = netlink.get_links(ifname=interface)
        return int(link.get_attr("IFLA_STATS64")["rx_packets"])
