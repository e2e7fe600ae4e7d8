"""A trial of one program: frames at one rate, and those it kept. Runs in ``python -m bench.peers``."""

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

TIMEOUT_S = 60
QUIET_S, QUIET_SHARE = 1.5, 0.03
"""A program has no more frames waiting if in this time its share of a CPU is this little above its share at
rest: libpcap passes blocks on after a second at the latest."""


@dataclass(frozen=True)
class PeerTrial:
    """The result of a trial."""

    offered_pps: float
    sent: int
    expected: int
    """Frames sent that the program should keep."""
    kept: int
    cpu_us_per_frame: float
    """CPU time of the program's processes."""
    machine_us_per_frame: float
    """CPU time of the whole machine, with that of the kernel and of the sender, which is the same for all."""
    memory_mib: float

    @property
    def is_without_loss(self) -> bool:
        """True if the program kept every frame it should keep."""
        return self.kept == self.expected

    def as_dict(self) -> dict[str, Any]:
        """Return the trial as JSON data."""
        return {
            "offered_pps": round(self.offered_pps),
            "sent": self.sent,
            "expected": self.expected,
            "kept": self.kept,
            "cpu_us_per_frame": round(self.cpu_us_per_frame, 2),
            "machine_us_per_frame": round(self.machine_us_per_frame, 2),
            "memory_mib": self.memory_mib,
        }


class PeerFailureError(SensorError):
    """A program did not start, or ended while it was measured."""


class PeerRig:
    """The wire and the frames all programs are measured with."""

    def __init__(self, wire: Wire, capture: PacedCapture, directory: Path) -> None:
        self._wire, self._directory, self._frames = wire, directory, capture.frames
        self._sender = Tcpreplay(wire.source, capture.shares, capture.share_frames)
        self._with_string = sum(_holds_string(frame) for frame in _frames_of(capture.whole))

    def run(self, peer: Peer, seconds: float, pace: float | None) -> PeerTrial:
        """Try a program at a pace, or as fast as possible if it is None.

        Raises:
            PeerFailureError: the program does not start, or does not keep running.
            SensorError: it still works long after the last frame.
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
            # tcpreplay leaves only frames without IP out of later loops; none of them holds a string.
            expected=sent.frames if peer.keeps_all else self._with_string * -(-sent.frames // self._frames),
            kept=kept,
            cpu_us_per_frame=spent_s / sent.frames * 1e6,
            machine_us_per_frame=machine_s / sent.frames * 1e6,
            memory_mib=round(memory_mib, 1),
        )


@contextmanager
def _running(peer: Peer, interface: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, wait until it captures, and stop it with SIGINT at the end."""
    log = directory / "log"
    command = tied(*peer.command(interface, directory))
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline_s = time.monotonic() + TIMEOUT_S
            while peer.ready.encode() not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > deadline_s:
                    said = log.read_text(errors="replace")[-300:].strip()
                    raise PeerFailureError(f"did not start: {said}")
                time.sleep(0.01)
            try:
                yield process
            except (FileNotFoundError, ProcessLookupError) as error:  # in /proc
                if process.poll() is None:
                    raise
                raise PeerFailureError(f"ended with exit code {process.returncode}") from error
            process.send_signal(signal.SIGINT)
            process.wait(TIMEOUT_S)
        finally:
            process.kill()


def _holds_string(frame: bytes) -> bool:
    return any(string.encode() in frame for string in STRINGS)


def _frames_of(path: Path) -> Iterator[bytes]:
    with CaptureFile(path) as file:
        try:
            for batch in file.batches():
                for start, caplen in zip(batch.start.tolist(), batch.caplen.tolist(), strict=True):
                    yield bytes(batch.buffer[start : start + caplen])
        except CaptureFileError:
            return  # the program was stopped while it wrote the last frame; only whole frames count


def _processes(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children."""
    return sum(map(process_s, _processes(pid)))


def _cpu_s_of_a_while(pid: int) -> float:
    before_s = _cpu_s(pid)
    time.sleep(QUIET_S)
    return _cpu_s(pid) - before_s


def _wait_for_rest(pid: int, rest_s: float) -> None:
    """Wait until a process is nearly as idle as before the first frame: then no frame waits any more."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while _cpu_s_of_a_while(pid) > rest_s + QUIET_S * QUIET_SHARE:
        if time.monotonic() > deadline_s:
            raise SensorError(f"process {pid} is still busy after the replay; try again on an idle machine")
