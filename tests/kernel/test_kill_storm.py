"""kill -9 at random moments under an attack storm: of workers, other children, the supervisor, or its start.

A round kills ten times and keeps its evidence in one directory. `make test` runs one round, `make kill-storm`
twenty.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

import psutil
import pytest
from attack_storm import FLAGS, FRAMES, AttackStorm, Stamp, indexed
from live import METRICS, SENSOR, Run, received_by, running, wait_until_received
from processes import children, wait_until
from test_run import Network, assert_law

from sensor.evidence.search import EvidenceSearch
from sensor.evidence.verify import verify
from sensor.metrics import catalogue as c
from sensor.metrics.figures import ask

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600), pytest.mark.usefixtures("use_few_rules")]

START, SUPERVISOR = "start", "sensor"
KILLS = {"sensor-worker": 4, "sensor-index": 2, "sensor-retain": 1, SUPERVISOR: 2, START: 1}
"""Kills of a round, by the name of the process; `START` is a supervisor that does not capture yet."""
START_CPU_S = 1.5
"""Approximate CPU time of a start."""


@pytest.fixture
def storm(tmp_path_factory: pytest.TempPathFactory) -> AttackStorm:
    """Return a storm, with what a reading of its frames finds."""
    return AttackStorm(tmp_path_factory.mktemp("storm"))


def test_kills_in_a_storm(network: Network, tmp_path: Path, storm: AttackStorm, kill_seed: int) -> None:
    """Nothing that was written is lost, invented or stored twice, and the index agrees with it in the end."""
    rng = Random(kill_seed)
    victims = [name for name, kills in KILLS.items() for _ in range(kills)]
    rng.shuffle(victims)
    known: set[Stamp] = set()
    reported = 0
    for number, part in enumerate(lives(victims)):
        for _ in range(part.count(START)):
            kill_start(network[0], tmp_path, rng)
        with sensor_on(network[0], tmp_path) as run:
            stamps = storm.stamps_of(finished(run))
            assert stamps >= known
            assert len(stamps - known) >= reported
            known = stamps
            received = received_by(network[0])
            with storm.blowing(network[1], number) as senders:
                for moment, victim in moments(part, rng):
                    wait_until_received(network[0], received + moment)
                    if victim == SUPERVISOR:
                        reported = written_so_far()
                        run.process.kill()
                        for sender in senders:
                            sender.kill()
                    else:
                        kill_child(run, victim, rng)
            if SUPERVISOR not in part:
                wait_until_received(network[0], received + FRAMES)
                assert run.stop() == 0, "\n".join(run.log[-12:])
                known = all_of_a_storm(run, storm, number)
    with sensor_on(
        network[0], tmp_path
    ) as run:  # the indexer adds the rows that a killed one had not inserted
        wait_until(lambda: EvidenceSearch(tmp_path).status()["index"]["state"] == "ok")
        assert run.stop() == 0
    assert storm.stamps_of(finished(run)) == known
    assert indexed(tmp_path) == {stamp: storm.rules[stamp.number] for stamp in known}
    assert not [verdict for verdict in verify(tmp_path / "3", 3) if verdict.fault]


def sensor_on(interface: str, evidence: Path) -> AbstractContextManager[Run]:
    """Run a sensor with two workers."""
    return running(interface, evidence, "--workers", "2", "--metrics", METRICS, *FLAGS)


def moments(part: Sequence[str], rng: Random) -> Iterator[tuple[int, str]]:
    """Yield the victims of a storm, each with the number of frames after which it is killed."""
    victims = [victim for victim in part if victim != START]
    yield from zip(sorted(rng.sample(range(FRAMES), len(victims))), victims, strict=True)


def finished(run: Run) -> list[Path]:
    """Return the evidence files, which are all finished."""
    assert all(path.suffix == ".pcap" for path in run.files)
    return run.files


def lives(victims: Sequence[str]) -> Iterator[list[str]]:
    """Divide the victims by the sensors that they belong to; the last sensor is not killed."""
    part: list[str] = []
    for victim in victims:
        part.append(victim)
        if victim == SUPERVISOR:
            yield part
            part = []
    yield part


def kill_start(interface: str, evidence: Path, rng: Random) -> None:
    """Start a sensor, and kill it after some CPU time."""
    command = [*SENSOR, "run", "-i", interface, "--evidence", str(evidence), "--no-api"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        cpu_s = rng.uniform(0, START_CPU_S)
        wait_until(lambda: psutil.Process(process.pid).cpu_times().user >= cpu_s)
        process.kill()


def kill_child(run: Run, name: str, rng: Random) -> None:
    """Kill one of the processes with a name, as soon as there is one."""
    found: list[int] = []
    wait_until(lambda: found.extend(children(run.process.pid, name)) or found)
    os.kill(rng.choice(found), signal.SIGKILL)


def written_so_far() -> int:
    """Return how many frames a sensor says to have written; assert what the law says of its figures."""
    figures = ask(METRICS)
    buckets = (c.UNDECODABLE, c.UNMATCHED, c.SAMPLED, c.QUARANTINED, c.MATCHED)
    assert figures.total(c.READ) == sum(figures.total(bucket) or 0 for bucket in buckets)
    assert figures.total(c.MATCHED) == figures.total(c.EVIDENCE)
    return int(figures.total(c.EVIDENCE, outcome="written") or 0)


def all_of_a_storm(run: Run, storm: AttackStorm, number: int) -> set[Stamp]:
    """Assert that a sensor that nobody killed kept every frame that matches; return all that it ever kept."""
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed, counters.in_ring) == (FRAMES, 0, 0)
    assert (counters.write_failed, counters.quarantined) == (0, 0)
    stamps = storm.stamps_of(finished(run))
    missing = {Stamp(number, frame) for frame in storm.rules} - stamps
    assert len(missing) <= counters.cut
    return stamps
