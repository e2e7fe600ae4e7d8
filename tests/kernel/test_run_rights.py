"""The rights of the processes of a running sensor, started by root and as a service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import live
import psutil
import pytest
from live import METRICS, Run, replay, running, wait_until_received
from processes import is_running, wait_until
from sandboxed import shared_mappings, status_of

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.metrics.figures import as_object, ask
from sensor.process.accounts import SWITCHING, ProcessRole, identity_of
from sensor.process.capabilities import NEEDED

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
Network = tuple[str, str]

ROOT = Path(__file__).parents[2]
SERVICE_USER = 2_100_001_000
"""A user without an account, as which the sensor runs like under systemd."""


@pytest.fixture
def directory(few_rules: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a directory that other users can enter, with rules, for evidence and events."""
    with tempfile.TemporaryDirectory(prefix="sensor-rights-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copytree(few_rules, directory / "rules")
        (directory / "rules").chmod(0o755)
        monkeypatch.setenv("SENSOR_RULES", str(directory / "rules"))
        for own in ("evidence", "events", "cache"):
            (directory / own).mkdir(mode=0o750)
        monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        yield directory


def sensor_in(directory: Path, *before: str) -> list[str]:
    """Return the command that runs the sensor as if it lay in the directory, with ``before`` in front."""
    script = f'mount --bind {ROOT} {directory} && cd {directory} && exec "$@"'
    python = str(Path(sys.executable).relative_to(ROOT))
    return ["unshare", "--mount", "sh", "-c", script, "sh", *before, python, "-m", "sensor"]


@pytest.fixture(params=["root", "service"])
def user(request: pytest.FixtureRequest, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let `running` start the sensor as root or as a service does; return its user id."""
    if request.param == "root":
        return 0
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in (*NEEDED, *SWITCHING))
    start = [
        "setpriv",
        f"--reuid={SERVICE_USER}",
        f"--regid={SERVICE_USER}",
        "--clear-groups",
        "--no-new-privs",
    ]
    start += [f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set=-all,{kept}"]
    (directory / "program").mkdir(mode=0o755)
    monkeypatch.setattr(live, "SENSOR", sensor_in(directory / "program", *start))
    for own in ("evidence", "events", "cache"):
        os.chown(directory / own, SERVICE_USER, SERVICE_USER)
    return SERVICE_USER


def start(network: Network, directory: Path) -> tuple[str, Path, *tuple[str, ...]]:
    """Return the arguments of `running` for a sensor with all its processes."""
    events = f"file:{directory / 'events/eve.json'}"
    return (
        network[0],
        directory / "evidence",
        "--api",
        "--listen",
        "127.0.0.1:0",
        f"--events={events}",
        "--ring-mib=1",
    )


def processes(run: Run) -> dict[str, psutil.Process]:
    """Return the descendants of the supervisor by name."""
    return {one.name(): one for one in psutil.Process(run.process.pid).children(recursive=True)}


def kinds(pid: int) -> list[str]:
    """Return what the descriptors of a process refer to, without their numbers and its standard error."""
    links = [(path.name, str(path.readlink())) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return sorted(link.split("[")[0].split(":[")[0] for name, link in links if int(name) > 2)


def test_each_process_has_its_own_user_and_nothing_else(network: Network, directory: Path, user: int) -> None:
    """No process beside the supervisor has its user, a capability, or a descriptor it does not need."""
    write_capture(directory / "traffic.pcap", mix.demo(seed=1).frames)
    with running(*start(network, directory), "--workers", "2") as run:
        replay(network[1], directory / "traffic.pcap")
        wait_until_received(network[0], len(mix.demo(seed=1).frames))
        wait_until(lambda: any(one.stat().st_size for one in (directory / "events").iterdir()))
        wait_until(lambda: len(processes(run)) >= 10)
        found = processes(run)
        roles = {
            "sensor-worker0": identity_of(ProcessRole.WORKER).uid,
            "sensor-recall": identity_of(ProcessRole.RECALLER).uid,
            "sensor-metrics": identity_of(ProcessRole.EXPORTER).uid,
            "sensor-events": identity_of(ProcessRole.EVENT_SENDER).uid,
            "sensor-files": user,
            "sensor-index": user,
            "sensor-retain": user,
            "sensor-hold": user,
        }
        [api] = [one for name, one in found.items() if not name.startswith("sensor-")]
        wait_until(lambda: status_of(api.pid)["Seccomp"] == "2")
        wait_until(lambda: any("sqlite" in link for link in kinds(found["sensor-index"].pid)))
        statuses = {name: status_of(found[name].pid) for name in roles} | {"api": status_of(api.pid)}
        assert {name: statuses[name]["Uid"].split() for name in roles} == {
            name: [str(uid)] * 4 for name, uid in roles.items()
        }
        users = {status["Uid"] for status in statuses.values()}
        assert len(users) == len(roles) - 2  # four of the roles share one; the API has another
        for name, status in statuses.items():
            kept = 1 << 1 if name == "sensor-files" and user == 0 else 0  # CAP_DAC_OVERRIDE
            assert {int(status[f"Cap{kind}"], 16) for kind in ("Prm", "Eff")} == {kept}, name
            assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Bnd", "Amb")} == {0}, name
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), name
        alone = ("sensor-worker0", "sensor-index", "sensor-retain", "sensor-hold", "sensor-files")
        assert {statuses[name]["Threads"] for name in alone} == {"1"}
        ambient = int(status_of(run.process.pid)["CapAmb"], 16)
        assert ambient == (0 if user == 0 else 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8)  # those of SWITCHING

        descriptors = {name: kinds(found[name].pid) for name in roles}
        assert set(descriptors["sensor-worker0"]) <= {"anon_inode:", "socket:"}
        perf = [str(path.readlink()) for path in Path(f"/proc/{found['sensor-worker0'].pid}/fd").iterdir()]
        cpus = len(os.sched_getaffinity(0))
        assert perf.count("anon_inode:[perf_event]") <= -(-cpus // min(cpus, 2))
        assert not any("bpf" in link for link in perf)
        assert descriptors["sensor-recall"] == ["socket:", "socket:"]
        mapped = Path(f"/proc/{found['sensor-recall'].pid}/maps").read_text().splitlines()
        histories = [line.split()[1] for line in mapped if "bpf-map" in line]
        assert histories == ["r--s"] * len(histories) != []
        maps = [str(path.readlink()) for path in Path(f"/proc/{found['sensor-metrics'].pid}/fd").iterdir()]
        assert [link for link in maps if link.startswith("anon_inode")] == ["anon_inode:bpf-map"]
        files = {Path(link).suffix for link in kinds(found["sensor-index"].pid) if link != "socket:"}
        assert files <= {".lock", ".sqlite", ".sqlite-wal", ".sqlite-shm"}, files
        assert kinds(found["sensor-index"].pid).count("socket:") == 1
        shared = shared_mappings(found["sensor-worker0"].pid)
        assert len([name for name in shared if "perf_event" in name]) <= -(-cpus // min(cpus, 2))
        others = [name for name in shared if "perf_event" not in name]
        assert len(others) == 4, others  # reports, flows, sources, heartbeat
        assert len(shared_mappings(found["sensor-metrics"].pid)) == 1  # the figures

        figures = ask(METRICS)
        assert as_object(figures, ask(METRICS))["figures_missing"] == []
        owner = (directory / "events/eve.json").stat().st_uid
        assert owner == user
        assert run.stop() == 0
    assert [json.loads(line) for line in (directory / "events/eve.json").read_text().splitlines()]
    assert run.counters["write_failed"] == 0


def test_a_killed_supervisor_takes_all_along(network: Network, directory: Path, user: int) -> None:  # noqa: ARG001
    """Processes of other users end with the supervisor, too."""
    with running(*start(network, directory)) as run:
        wait_until(lambda: len(processes(run)) >= 6)
        found = list(processes(run).values())
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
        wait_until(lambda: not any(is_running(one.pid) for one in found), every_s=0.05)


def test_the_program_may_lie_where_only_root_can_read_it(
    network: Network, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that have entered their sandboxes load nothing more from the program's directory."""
    private = directory / "private"
    (private / "tree").mkdir(mode=0o700, parents=True)
    private.chmod(0o700)
    monkeypatch.setattr(live, "SENSOR", sensor_in(private / "tree"))
    frames = mix.demo(seed=1).frames
    write_capture(directory / "traffic.pcap", frames)
    with running(*start(network, directory)) as run:
        replay(network[1], directory / "traffic.pcap")
        wait_until_received(network[0], len(frames))
        assert as_object(ask(METRICS), ask(METRICS))["figures_missing"] == []
        assert run.stop() == 0
    assert not [line for line in run.log if "died" in line or "Error" in line], run.log
    assert run.matches
    assert (directory / "events/eve.json").read_text().count("\n") >= len(run.matches) // 2
