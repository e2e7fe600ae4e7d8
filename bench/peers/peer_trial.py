"""One program, frames at one rate, and what it kept of them."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.programs import STRINGS, Peer
from sensor.bench.machine import busy_s, process_s, pss_mib
from sensor.bench.paced_capture import PacedCapture
from sensor.bench.tcpreplay import Tcpreplay
from sensor.bench.wire import Wire
from sensor.capture.cpus import online_cpus
from sensor.errors import CaptureFileError, SensorError
from sensor.files.capture_file import CaptureFile
from sensor.process.tied import tied

PATIENCE_S = 60
QUIET_S, QUIET_SHARE = 1.5, 0.03
"""So long, and with so little of a CPU beyond what it spends at rest: libpcap hands blocks on after a second
at the latest."""


@dataclass(frozen=True)
class PeerTrial:
    """What came of it."""

    offered_pps: float
    sent: int
    expected: int
    """Frames that the program is to keep, of those that were sent."""
    kept: int
    cpu_us_per_frame: float
    """Of the program's processes alone."""
    machine_us_per_frame: float
    """Of all CPUs: the kernel's work for it, and the sender's, which is the same for every program."""
    memory_mib: float

    @property
    def is_without_loss(self) -> bool:
        """Whether it kept all that it was to keep."""
        return self.kept == self.expected

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "offered_pps": round(self.offered_pps),
            "sent": self.sent,
            "expected": self.expected,
            "kept": self.kept,
            "cpu_us_per_frame": round(self.cpu_us_per_frame, 2),
            "machine_us_per_frame": round(self.machine_us_per_frame, 2),
            "memory_mib": self.memory_mib,
        }


class Bed:
    """The wire and the frames that all programs are tried with."""

    def __init__(self, wire: Wire, played: PacedCapture, directory: Path) -> None:
        self._wire, self._directory, self._frames = wire, directory, played.frames
        self._sender = Tcpreplay(wire.source, played.shares, played.share_frames)
        self._holding = sum(_holds(frame) for frame in _frames_of(played.whole))

    def run(self, peer: Peer, seconds: float, pace: float | None) -> PeerTrial:
        """Try a program at a pace; None: as fast as can be sent.

        Raises:
            SensorError: It does not start, or does not come to rest.
        """
        with tempfile.TemporaryDirectory(dir=self._directory) as own:
            with _running(peer, self._wire.mirror, Path(own)) as process:
                rest_s = _cpu_s_of_a_while(process.pid)
                before, spent_s, machine_s = self._wire.received(), _cpu_s(process.pid), busy_s()
                sent = self._sender.send(online_cpus()[:1], seconds, pace)
                self._wire.settle(before + sent.frames)
                _wait_for_rest(process.pid, rest_s)
                spent_s, machine_s = _cpu_s(process.pid) - spent_s, busy_s() - machine_s
                memory_mib = sum(pss_mib(pid) for pid in _processes(process.pid))
            kept = sum(1 for path in Path(own).glob(peer.kept) for _ in _frames_of(path))
        return PeerTrial(
            offered_pps=sent.per_second,
            sent=sent.frames,
            # Each loop has all frames that hold a string: those that later loops leave out are not IP.
            expected=sent.frames if peer.keeps_all else self._holding * -(-sent.frames // self._frames),
            kept=kept,
            cpu_us_per_frame=spent_s / sent.frames * 1e6,
            machine_us_per_frame=machine_s / sent.frames * 1e6,
            memory_mib=round(memory_mib, 1),
        )


@contextmanager
def _running(peer: Peer, interface: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start it, wait until it captures, and end it as a user would."""
    log = directory / "log"
    command = tied(*peer.command(interface, directory))
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline_s = time.monotonic() + PATIENCE_S
            while peer.ready.encode() not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise SensorError(
                        f"{peer.binary} did not start: {log.read_text(errors='replace')[-300:]}"
                    )
                time.sleep(0.01)
            yield process
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)
        finally:
            process.kill()


def _holds(frame: bytes) -> bool:
    return any(string.encode() in frame for string in STRINGS)


def _frames_of(path: Path) -> Iterator[bytes]:
    with CaptureFile(path) as file:
        try:
            for batch in file.batches():
                for start, caplen in zip(batch.start.tolist(), batch.caplen.tolist(), strict=True):
                    yield bytes(batch.buffer[start : start + caplen])
        except CaptureFileError:
            return  # cut short by its end: the whole frames count


def _processes(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children so far."""
    return sum(map(process_s, _processes(pid)))


def _cpu_s_of_a_while(pid: int) -> float:
    before_s = _cpu_s(pid)
    time.sleep(QUIET_S)
    return _cpu_s(pid) - before_s


def _wait_for_rest(pid: int, rest_s: float) -> None:
    """Until it spends hardly more CPU time than before anything was sent, so that no frame waits."""
    deadline_s = time.monotonic() + PATIENCE_S
    while _cpu_s_of_a_while(pid) > rest_s + QUIET_S * QUIET_SHARE:
        if time.monotonic() > deadline_s:
            raise SensorError(f"process {pid} does not come to rest after the replay; is the machine busy?")
