"""An attack storm whose frames can be told apart, and what its evidence must be.

In place of the source's MAC address, each frame carries the number of its storm and its own number. So every
stored frame can be traced to the one that was sent.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from live import SENSOR
from test_run import frames_of

from sensor.bench.traffic.frames import Frame, write_capture
from sensor.bench.traffic.profiles import PROFILES, generate
from sensor.capture.cpus import online_cpus
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.stored import StoredRecords

FRAMES = 16_000
SENDERS = 2
FRAMES_PER_SECOND = 12_000
"""Rate of each sender."""
FLAGS = ("--profile", "thorough", "--suppress-above", "0")
"""With these, a frame alone decides whether it becomes evidence."""
_MAC = slice(6, 12)


class Stamp(NamedTuple):
    """The identity of a frame."""

    storm: int
    number: int


class AttackStorm:
    """The frames of a storm, and the rules that `sensor read` finds in them."""

    def __init__(self, directory: Path) -> None:
        """Generate the frames and read them; files are kept in the directory."""
        self._directory = directory
        self._frames = [frame.data for frame in generate(PROFILES["attack"], 7, FRAMES)]
        capture = self._write("whole.pcap", 0, range(FRAMES))
        command = [*SENSOR, "read", str(capture), "--evidence", str(directory / "read"), *FLAGS]
        subprocess.run(command, check=True, capture_output=True)
        self.rules = {stamp.number: rules for stamp, rules in indexed(directory / "read").items()}
        """The rules that match a frame, by its number; frames that none matches are absent."""

    @contextmanager
    def blowing(self, interface: str, storm: int) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Send all frames, each sender from a CPU of its own; yield the senders, and wait for them."""
        cpus, senders = online_cpus(), []
        for sender in range(SENDERS):
            capture = self._write(f"{sender}.pcap", storm, range(sender, FRAMES, SENDERS))
            command = ["taskset", "--cpu-list", str(cpus[sender % len(cpus)]), "tcpreplay", "--quiet"]
            command += ["--preload-pcap", f"--pps={FRAMES_PER_SECOND}", f"--intf1={interface}", str(capture)]
            senders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        try:
            yield senders
        except BaseException:
            for sender in senders:
                sender.kill()
            raise
        finally:
            for sender in senders:
                sender.wait()

    def stamps_of(self, files: Iterable[Path]) -> set[Stamp]:
        """Return the frames that readable files store, after a check of each.

        It is a frame that was sent, it is whole and unchanged, a rule matches it, and it is stored once.
        """
        kept = Counter(frames_of(list(files)))
        assert set(kept.values()) <= {1}, "a frame is stored twice"
        stamps = {stamp_of(frame): frame for frame in kept}
        for stamp, frame in stamps.items():
            assert stamp.number in self.rules, f"no rule matches {stamp}"
            assert frame == self._frame(stamp), f"{stamp} was not sent like this"
        return set(stamps)

    def _write(self, name: str, storm: int, numbers: Iterable[int]) -> Path:
        path = self._directory / name
        frames = [self._frame(Stamp(storm, number)) for number in numbers]
        write_capture(path, [Frame(1_700_000_000_000_000 + i * 50, frame) for i, frame in enumerate(frames)])
        return path

    def _frame(self, stamp: Stamp) -> bytes:
        frame = self._frames[stamp.number]
        mac = b"\x02" + stamp.storm.to_bytes(2, "big") + stamp.number.to_bytes(3, "big")
        return frame[: _MAC.start] + mac + frame[_MAC.stop :]


def stamp_of(frame: bytes) -> Stamp:
    """Return the identity of a frame."""
    mac = frame[_MAC]
    return Stamp(int.from_bytes(mac[1:3], "big"), int.from_bytes(mac[3:], "big"))


def indexed(evidence: Path) -> dict[Stamp, tuple[int, ...]]:
    """Return what the index of a directory knows: the rules of each frame, which has one row."""
    rows: dict[Stamp, tuple[int, ...]] = {}
    with closing(StoredRecords()) as records:
        for stored in EvidenceSearch(evidence).iterate(Query()):
            stamp = stamp_of(records.read(stored).frame)
            assert stamp not in rows, f"{stamp} has two rows"
            rows[stamp] = tuple(sorted(rule.rule_id for rule in stored.rules))
    return rows
