"""``python -m bench.peers``: other programs on the same replay as sensor, with the same strings; as root.

Each is started on a private wire, the same frames are sent, and what it kept is counted in its own
file. tcpdump and dumpcap have no rules for payloads: they keep everything, which is their way to have
what is needed later. What is not installed is named as not measured. Suricata keeps the packets of
alerts (``conditional: alerts``, Suricata 7).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.traffic.frames import write_capture
from bench.traffic.notable import ATTACKS
from bench.traffic.profiles import PROFILES, generate
from sensor.bench.children import tied
from sensor.bench.machine import process_s
from sensor.bench.played import play
from sensor.bench.tcpreplay import Tcpreplay
from sensor.bench.wire import Wire, private_wire
from sensor.capture.replay import CaptureFile
from sensor.capture.ring import online_cpus
from sensor.errors import CaptureFileError, SensorError

STRINGS = [what.notable.text.decode() for what in ATTACKS]
PATIENCE_S = 60
QUIET_S, QUIET_SHARE = 1.5, 0.03
"""So long, and with so little of a CPU beyond what it spends at rest: libpcap hands blocks on after a second
at the latest."""
NOT_MEASURED = ("lyprobe",)
"""There is no package of it to install."""

_SURICATA = """%YAML 1.1
---
af-packet: [{{interface: {interface}, cluster-id: 99, cluster-type: cluster_flow}}]
outputs: [{{pcap-log: {{enabled: yes, filename: kept.pcap, conditional: alerts}}}}]
"""


@dataclass(frozen=True)
class Peer:
    """A program that is compared."""

    binary: str
    command: Callable[[str, Path], list[str]]
    """For an interface and an empty directory, which it writes into."""
    ready: str
    """What it says once it captures."""
    kept: str
    """The names of the files it writes."""
    keeps_all: bool = False


def _ngrep(interface: str, directory: Path) -> list[str]:
    strings = "|".join(re.escape(string).replace("/", "\\x2f") for string in STRINGS)
    return ["ngrep", "-q", "-l", "-d", interface, "-O", str(directory / "kept.pcap"), strings]


def _sensor(interface: str, directory: Path) -> list[str]:
    rules = {
        str(number): {"type": "string", "name": string, "protocol": "tcp", "regex": re.escape(string)}
        for number, string in enumerate(STRINGS, 1)
    }
    (directory / "rules").mkdir()
    (directory / "rules" / "threat.json").write_text(json.dumps({"threat": {"rules": rules}}))
    flags = ("--rules", str(directory / "rules"), "--evidence", str(directory), "--suppress-above", "0")
    return [sys.executable, "-m", "sensor", "run", "-i", interface, *flags, "--action", "drop", "--no-api"]


def _suricata(interface: str, directory: Path) -> list[str]:
    (directory / "suricata.yaml").write_text(_SURICATA.format(interface=interface))
    rules = [
        f'alert tcp any any -> any any (msg:"{number}"; content:"|{_octets(string)}|"; sid:{number};)'
        for number, string in enumerate(STRINGS, 1)
    ]
    (directory / "strings.rules").write_text("\n".join(rules) + "\n")
    files = ("-c", str(directory / "suricata.yaml"), "-S", str(directory / "strings.rules"))
    return ["suricata", "--af-packet", *files, "-l", str(directory), "-k", "none"]


def _octets(string: str) -> str:
    return string.encode().hex(" ")


PEERS = (
    Peer("sensor", _sensor, "capturing on", "*/*.pcap"),
    Peer(
        "tcpdump", lambda interface, to: ["tcpdump", "-n", "-i", interface, "-w", str(to / "kept.pcap")],
        "listening on", "kept.pcap", keeps_all=True,
    ),
    Peer(
        "dumpcap", lambda interface, to: ["dumpcap", "-i", interface, "-P", "-w", str(to / "kept.pcap")],
        "File:", "kept.pcap", keeps_all=True,
    ),
    Peer("ngrep", _ngrep, "interface:", "kept.pcap"),
    Peer("suricata", _suricata, "Engine started", "kept.pcap*"),
)  # fmt: skip


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("capture", nargs="?", type=Path, help="instead of generated traffic of an office")
    parser.add_argument("--pps", type=float, action="append", help="paces (default 20000, 100000)")
    parser.add_argument("--frames", type=int, default=50_000, help="of generated traffic")
    arguments = parser.parse_args()
    try:
        measure(arguments.capture, arguments.pps or [20_000, 100_000], arguments.frames)
    except SensorError as error:
        print(f"peers: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def measure(capture: Path | None, paces: list[float], frames: int) -> None:
    """Try every program that is installed at every pace."""
    table = Table("program", "frames/s", "kept", "of", "CPU us/frame", title="same frames, same strings")
    with tempfile.TemporaryDirectory(prefix="sensor-peers-") as temporary, private_wire() as wire:
        directory = Path(temporary)
        if capture is None:
            capture = directory / "office.pcap"
            write_capture(capture, generate(PROFILES["office"], 1, frames, 0.01))
        played = play([capture], directory, 1, wire.mtu)
        sender = Tcpreplay(wire.source, played.shares, played.share_frames)
        holding = sum(_holds(frame) for frame in _frames(played.whole))
        for peer in PEERS:
            if peer.binary != "sensor" and shutil.which(peer.binary) is None:
                table.add_row(peer.binary, "not installed: not measured")
                continue
            for pace in paces:
                rate, kept, cpu_us = _trial(peer, wire, sender, pace, directory)
                expected = played.frames if peer.keeps_all else holding
                table.add_row(peer.binary, f"{rate:,.0f}", f"{kept:,}", f"{expected:,}", f"{cpu_us:.2f}")
    for name in NOT_MEASURED:
        table.add_row(name, "not available: not measured")
    Console().print(table)


def _holds(frame: bytes) -> bool:
    return any(string.encode() in frame for string in STRINGS)


def _trial(
    peer: Peer, wire: Wire, sender: Tcpreplay, pace: float, directory: Path
) -> tuple[float, int, float]:
    """Return the rate sent, the frames kept, and the program's CPU time a frame."""
    with tempfile.TemporaryDirectory(dir=directory) as own:
        with _running(peer, wire.mirror, Path(own)) as process:
            rest_s = _cpu_s_of_a_while(process.pid)
            before, spent_s = wire.received(), _cpu_s(process.pid)
            sent = sender.send(online_cpus()[:1], None, pace)
            wire.settle(before + sent.frames)
            _wait_for_rest(process.pid, rest_s)
            spent_s = _cpu_s(process.pid) - spent_s
        kept = 0
        for path in Path(own).glob(peer.kept):
            kept += sum(1 for _ in _frames(path))
    return sent.per_second, kept, spent_s / sent.frames * 1e6


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


def _frames(path: Path) -> Iterator[bytes]:
    with CaptureFile(path) as file:
        try:
            for batch in file.batches():
                for start, caplen in zip(batch.start.tolist(), batch.caplen.tolist(), strict=True):
                    yield bytes(batch.buffer[start : start + caplen])
        except CaptureFileError:
            return  # cut short by its end: the whole frames count


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children so far."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return process_s(pid) + sum(process_s(int(child)) for child in children)


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


if __name__ == "__main__":
    sys.exit(main())
