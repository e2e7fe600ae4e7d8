"""``sensor selftest``: a packet reaches every stage, and each stage that is broken is the one it names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_runs import doctor
from live import SENSOR, Run, replay, running
from processes import children, wait_until

from sensor.bench.private_network import veth_pair
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.evidence.query import Query
from sensor.evidence.search import EvidenceSearch
from sensor.selftest.stage import SelftestStage
from tests.api.api_samples import open_directory

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]
Network = tuple[str, str]
ALL = [stage.name.lower() for stage in SelftestStage]

FULL_DISK = """
import sys
from contextlib import suppress
from pathlib import Path
from live import running
from test_selftest import failure
from sensor.evidence.query import Query
from sensor.evidence.search import EvidenceSearch
from sensor.selftest.stage import SelftestStage

port, evidence = sys.argv[1], Path(sys.argv[2])
with running(port, evidence, "--retain-free-percent", "0"):
    with suppress(OSError), (evidence / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    print(failure(evidence, SelftestStage.WRITTEN, port))
"""


def selftest(*arguments: str, expected: int = 0, before: tuple[str, ...] = ()) -> dict[str, tuple[str, str]]:
    """Run the command; return the outcome and detail of each stage."""
    command = [*before, *SENSOR, "selftest", *arguments, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == expected, done.stdout + done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [one["stage"] for one in stages] == ALL
    return {one["stage"]: (one["outcome"], one["detail"]) for one in stages}


def failure(evidence: Path, stage: SelftestStage, *arguments: str, timeout: float = 2) -> str:
    """Run the command, which fails at a stage; return the reason."""
    flags = ("--evidence", str(evidence), "--timeout", str(timeout))
    found = selftest(*arguments, *flags, expected=int(stage))
    assert [name for name, (outcome, _) in found.items() if outcome == "failed"] == [stage.name.lower()]
    later = ALL[ALL.index(stage.name.lower()) + 1 :]
    assert {found[name][0] for name in later} <= {"skipped"}
    return found[stage.name.lower()][1]


def indexer(run: Run) -> int:
    """Return the process id of the indexer."""
    [pid] = children(run.process.pid, "sensor-index")
    return pid


@pytest.fixture
def evidence() -> Iterator[Path]:
    """Yield an empty directory that the user of the API can reach."""
    with open_directory() as directory:
        (directory / "evidence").mkdir(mode=0o755)
        yield directory / "evidence"


def test_a_private_sensor_passes(evidence: Path) -> None:
    """It needs no port, has the evidence's disk, and leaves nothing behind."""
    found = selftest("--evidence", str(evidence))
    assert {outcome for outcome, _ in found.values()} == {"ok"}
    assert found["written"][1].startswith(str(evidence))
    assert list(evidence.iterdir()) == []
    assert "selftest" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("way", [(), ("--from", "source")], ids=["program", "cable"])
def test_the_running_sensor_passes(
    network: Network, tmp_path: Path, evidence: Path, way: tuple[str, ...]
) -> None:
    """The packet takes the way of all others, beside traffic, and the law of the counters holds."""
    write_capture(tmp_path / "traffic.pcap", mix.demo(seed=1).frames)
    with running(network[0], evidence, "--api") as run:
        replay(network[1], tmp_path / "traffic.pcap")
        found = selftest(network[0], *way, "--evidence", str(evidence))
        assert run.stop() == 0
    assert {outcome for outcome, _ in found.values()} == {"ok"}
    [marked] = EvidenceSearch(evidence).iterate(Query(text=b"sensor-selftest"))
    [rule] = marked.rules
    assert f"{rule.rule_class} rule {rule.rule_id}, {rule.name}" == found["matched"][1]
    assert marked.five_tuple.source_text == "192.0.2.1"
    assert run.counters["seen"] == len(mix.demo(seed=1).frames) + 1
    assert run.counters["submitted"] == run.counters["read"]


def test_nothing_captures(network: Network, tmp_path: Path) -> None:
    """No sensor; another port; a port that is down."""
    assert "no sensor answers" in failure(tmp_path, SelftestStage.CAPTURING, network[0])
    assert "no such interface" in failure(tmp_path, SelftestStage.CAPTURING, "nowhere")
    with running(network[0], tmp_path):
        assert "does not capture on source" in failure(tmp_path, SelftestStage.CAPTURING, network[1])
        subprocess.run(["ip", "link", "set", network[1], "down"], check=True)
        assert "no carrier" in failure(tmp_path, SelftestStage.CAPTURING, network[0])


def test_nothing_arrives(network: Network, tmp_path: Path) -> None:
    """The packet is sent from a port that is not connected to the captured one."""
    veth_pair("other", "peer")
    with running(network[0], tmp_path):
        reason = failure(tmp_path, SelftestStage.SEEN, network[0], "--from", "other")
        assert "is other connected to it?" in reason


def test_no_rule_matches(network: Network, tmp_path: Path, few_rules: Path) -> None:
    """The sensor has not loaded what is in the files."""
    rules = shutil.copytree(few_rules, tmp_path / "rules")
    with running(network[0], tmp_path / "evidence", "--rules", str(rules)):
        ssh = {"type": "other", "name": "other", "protocol": "udp", "port": 9, "regex": "xyzzy"}
        (rules / "service.json").write_text(json.dumps({"service": {"rules": {"11001": ssh}}}))
        reason = failure(tmp_path / "evidence", SelftestStage.MATCHED, network[0], "--rules", str(rules))
        assert "other rules in force" in reason


def test_the_disk_is_full(network: Network, tmp_path: Path) -> None:
    """Evidence cannot be written."""
    fill = 'mount -t tmpfs -o size=600k tmpfs "$0" && exec "$@"'
    before = ("unshare", "--mount", "sh", "-c", fill, str(tmp_path))
    script = tmp_path.with_name("script.py")
    script.write_text(FULL_DISK)
    paths = os.pathsep.join(str(Path(__file__).parents[up]) for up in range(3))
    command = [*before, SENSOR[0], str(script), network[0], str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert "writing evidence fails" in done.stdout, done.stderr


def test_the_index_stands_still(network: Network, tmp_path: Path) -> None:
    """The packet is in the file only."""
    with running(network[0], tmp_path) as run:
        wait_until(lambda: children(run.process.pid, "sensor-index"))
        os.kill(indexer(run), signal.SIGSTOP)
        try:
            assert "not in the index" in failure(tmp_path, SelftestStage.INDEXED, network[0])
        finally:
            os.kill(indexer(run), signal.SIGCONT)


def test_the_api_is_down(network: Network, tmp_path: Path) -> None:
    """Nothing answers; without an API in the settings, nobody asks."""
    with running(network[0], tmp_path):
        assert "does not answer" in failure(tmp_path, SelftestStage.SERVED, network[0])
        found = selftest(network[0], "--evidence", str(tmp_path), "--no-api")
        assert found.pop("served")[0] == "skipped"
        assert {outcome for outcome, _ in found.values()} == {"ok"}


def test_the_api_wants_a_token(
    network: Network, tmp_path: Path, evidence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token in a file opens it."""
    monkeypatch.setenv("SENSOR_TOKEN_REQUIRED", "true")
    create = [*SENSOR, "token", "create", "selftest", "--evidence", str(evidence)]
    token = subprocess.run(create, check=True, capture_output=True, text=True).stdout
    (tmp_path / "token").write_text(token)
    with running(network[0], evidence, "--api"):
        where = (network[0], "--evidence", str(evidence))
        assert selftest(*where)["served"] == (
            "skipped",
            "the API at 127.0.0.1:8321 wants a token: --token-file FILE",
        )
        assert selftest(*where, "--token-file", str(tmp_path / "token"))["served"][0] == "ok"
        (tmp_path / "token").write_text("wrong")
        wrong = ("--token-file", str(tmp_path / "token"))
        assert "answers 401" in failure(evidence, SelftestStage.SERVED, network[0], *wrong)


def test_without_capabilities(network: Network, tmp_path: Path) -> None:
    """It says what it needs, and exits as all commands do."""
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *SENSOR, "selftest"]
    with running(network[0], tmp_path):
        for arguments in ((), (network[0],), (network[0], "--from", network[1])):
            done = subprocess.run(
                [*without, *arguments, "--evidence", str(tmp_path)],
                check=False, capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 3, done.stdout + done.stderr
            assert "sudo" in done.stderr
            assert len(done.stderr.splitlines()) == 1


def test_the_doctor_sends_a_packet(evidence: Path, tmp_path: Path, few_rules: Path) -> None:
    """It does so when asked; what stops the packet is an error, and other errors are told first."""
    where = ("--evidence", evidence)
    code, findings = doctor("--selftest", *where)
    assert (code, findings["selftest"]["level"]) == (0, "ok"), findings
    assert list(evidence.iterdir()) == []
    assert "selftest" not in doctor(*where)[1]
    rules = tmp_path / "rules"
    rules.mkdir()
    shutil.copy(few_rules / "service.json", rules)
    code, findings = doctor("--selftest", "--rules", rules, "--keep", "threat", *where)
    assert (code, findings["selftest"]["level"]) == (1, "error")
    assert "stops at the stage matched" in findings["selftest"]["what"]
    (rules / "service.json").write_text("{")
    code, findings = doctor("--selftest", "--rules", rules, *where)
    assert (code, findings["rules"]["level"], findings["selftest"]["level"]) == (1, "error", "note")
