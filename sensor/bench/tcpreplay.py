"""Frames sent by tcpreplay: from memory, at a pace or as fast as it goes, a process for each share."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from sensor.bench.tied import tied
from sensor.errors import SensorError

_SENT = re.compile(r"Actual: \d+ packets \((\d+) bytes\) sent in ([\d.]+) seconds")
_FRAMES = re.compile(r"Successful packets:\s+(\d+)")


class Sent(NamedTuple):
    """What went out, of all senders together."""

    frames: int
    octets: int
    seconds: float

    @property
    def per_second(self) -> float:
        """The rate offered."""
        return self.frames / self.seconds


class Tcpreplay:
    """Sends each share from a CPU of its own; each loop has other addresses, so that its flows are new."""

    name = "tcpreplay"
    most_frames = None
    """Of a capture: all."""

    def __init__(self, interface: str, shares: Sequence[Path], share_frames: Sequence[int]) -> None:
        """Raise `SensorError` where it is not installed."""
        if shutil.which(self.name) is None:
            raise SensorError("tcpreplay is not installed: apt install tcpreplay")
        self._interface, self._shares, self._frames = interface, shares, share_frames

    def send(self, cpus: Sequence[int], seconds: float | None, per_second: float | None) -> Sent:
        """Send for about so long, or every share once where ``seconds`` is None; at most at that pace.

        Raises:
            SensorError: It failed.
        """
        total = sum(self._frames)
        with ExitStack() as stack:
            running = []
            for share, frames, cpu in zip(self._shares, self._frames, cpus, strict=True):
                pace = per_second * frames / total if per_second else None
                loops = 1 if seconds is None else max(1, math.ceil(seconds * (per_second or FASTEST) / total))
                running.append(stack.enter_context(self._start(share, cpu, loops, pace)))
                stack.callback(running[-1].kill)
            return _together([_ended(process) for process in running])

    def _start(self, share: Path, cpu: int, loops: int, pace: float | None) -> subprocess.Popen[str]:
        speed = f"--pps={pace:.0f}" if pace else "--topspeed"
        flags = ("--quiet", "--preload-pcap", "--no-flow-stats", f"--intf1={self._interface}", speed)
        again = (f"--loop={loops}", "--unique-ip") if loops > 1 else ()
        command = tied("taskset", "--cpu-list", str(cpu), self.name, *flags, *again, str(share))
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


FASTEST = 300_000
"""About the frames a second that tcpreplay sends where no pace is set: says how many make a trial."""


def _ended(process: subprocess.Popen[str]) -> Sent:
    said, _ = process.communicate()
    sent, frames = _SENT.search(said), _FRAMES.search(said)
    if process.returncode or not sent or not frames:
        raise SensorError(f"tcpreplay ended with code {process.returncode}: {said.strip()[-300:]}")
    return Sent(int(frames[1]), int(sent[1]), float(sent[2]))


def _together(each: Sequence[Sent]) -> Sent:
    seconds = max(one.seconds for one in each)
    return Sent(sum(one.frames for one in each), sum(one.octets for one in each), seconds)
