"""A capture sent from memory by tcpreplay, with one process per share. Runs in ``sensor bench replay``."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from sensor.errors import SensorError
from sensor.process.tied import tied

_SENT = re.compile(r"Actual: \d+ packets \((\d+) bytes\) sent in ([\d.]+) seconds")
_FRAMES = re.compile(r"Successful packets:\s+(\d+)")


class Sent(NamedTuple):
    """The frames all senders together have sent."""

    frames: int
    octets: int
    seconds: float

    @property
    def per_second(self) -> float:
        """The offered rate, in frames per second."""
        return self.frames / self.seconds


class Tcpreplay:
    """Sends each share of a capture from a CPU of its own.

    Every loop over the capture has new addresses, so that its flows are new.
    """

    name = "tcpreplay"
    most_frames = None
    """All frames of a capture are sent."""

    def __init__(self, interface: str, shares: Sequence[Path], share_frames: Sequence[int]) -> None:
        """Raise `SensorError` if tcpreplay is not installed."""
        if shutil.which(self.name) is None:
            raise SensorError("tcpreplay is not installed: apt install tcpreplay")
        self._interface, self._shares, self._frames = interface, shares, share_frames

    def send(self, cpus: Sequence[int], seconds: float | None, per_second: float | None) -> Sent:
        """Send for about ``seconds``, or every share once if it is None; at most at ``per_second`` in total.

        Raises:
            SensorError: tcpreplay failed.
        """
        total = sum(self._frames)
        with ExitStack() as stack:
            running = []
            for share, frames, cpu in zip(self._shares, self._frames, cpus, strict=True):
                pace = per_second * frames / total if per_second else None
                loops = 1 if seconds is None else max(1, math.ceil(seconds * (per_second or FASTEST) / total))
                running.append(stack.enter_context(self._start(share, cpu, loops, pace)))
                stack.callback(running[-1].kill)
            return _sum([_wait(process) for process in running])

    def _start(self, share: Path, cpu: int, loops: int, pace: float | None) -> subprocess.Popen[str]:
        speed = f"--pps={pace:.0f}" if pace else "--topspeed"
        flags = ("--quiet", "--preload-pcap", "--no-flow-stats", f"--intf1={self._interface}", speed)
        repeat = (f"--loop={loops}", "--unique-ip") if loops > 1 else ()
        command = tied("taskset", "--cpu-list", str(cpu), self.name, *flags, *repeat, str(share))
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


FASTEST = 300_000
"""Approximate frames per second without a pace, from which the number of loops in a trial follows."""


def _wait(process: subprocess.Popen[str]) -> Sent:
    output, _ = process.communicate()
    sent, frames = _SENT.search(output), _FRAMES.search(output)
    if process.returncode or not sent or not frames:
        raise SensorError(f"tcpreplay ended with code {process.returncode}: {output.strip()[-300:]}")
    return Sent(int(frames[1]), int(sent[1]), float(sent[2]))


def _sum(shares: Sequence[Sent]) -> Sent:
    seconds = max(share.seconds for share in shares)
    return Sent(sum(share.frames for share in shares), sum(share.octets for share in shares), seconds)
