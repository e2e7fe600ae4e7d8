"""The units on a Debian host, where systemd starts, watches, reloads, kills and stops them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from container import Container, booted, debian_tree
from live import replay
from processes import wait_until

from sensor.bench.private_network import private_network
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture

pytestmark = [pytest.mark.kernel, pytest.mark.deploy, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "ansible" / "roles" / "sensor" / "files"
SET_UP, START = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "service.md").read_text(), re.DOTALL)
UNIT = "sensor@eth1"
CAPTURE = 1 << 39 | 1 << 38 | 1 << 12 | 1 << 13  # CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW
SWITCH = 1 << 7 | 1 << 6 | 1 << 8 | 1 << 5  # CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_KILL
"""Capabilities as bits (linux/capability.h)."""
HELLO = {"1": {"type": "T", "name": "hello", "protocol": "udp", "port": 7, "regex": "^hello"}}
WORLD = {"2": {"type": "T", "name": "world", "protocol": "udp", "port": 9, "regex": "world"}}
SETTINGS = """
rules = "/etc/sensor/rules"
ring_mib = 1  # fits even if root cannot raise the limit of locked memory
events = ["file:/var/log/sensor/eve.json"]
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """Yield a host with the sensor of this tree; its port ``eth1`` gets what is sent to ``source``."""
    directory = tmp_path_factory.mktemp("host")
    wheels = ["wheel", "--quiet", f"--wheel-dir={directory / 'wheels'}", str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *wheels], check=True, stderr=subprocess.DEVNULL)
    tree = debian_tree()  # fetched outside the private network
    with (
        private_network(),
        booted(tree, [("eth1", "source")], log=directory / "console") as container,
    ):
        _install(container, directory / "wheels")
        yield container


def _install(host: Container, wheels: Path) -> None:
    """Install the sensor as in docs/service.md, without internet."""
    directory = host.root / "root/sensor"
    shutil.copytree(wheels, directory)
    for file in UNITS.glob("sensor*"):
        shutil.copy(file, directory)
    for command in SET_UP.splitlines():
        host.run("sh", "-c", f"cd /root/sensor; export PIP_NO_INDEX=1 PIP_FIND_LINKS=.; {command}")
    (host.root / "etc/sensor/rules").mkdir()
    with (host.root / "etc/sensor/sensor.toml").open("a") as settings:
        settings.write(SETTINGS)


@pytest.fixture
def service(host: Container) -> Iterator[Container]:
    """Yield the host while it captures."""
    write_rules(host, HELLO)
    start(host)
    yield host
    host.run("systemctl", "stop", UNIT)
    host.run("systemctl", "reset-failed", UNIT, check=False)


def until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds; check it rarely, since each check starts a process."""
    wait_until(holds, every_s=0.2)


def start(host: Container, unit: str = UNIT) -> None:
    """Start a unit and wait until it is ready."""
    done = host.run("systemctl", "start", unit, check=False)
    assert done.returncode == 0, log(host, unit)


def write_rules(host: Container, rules: object) -> None:
    """Replace the rule files by one."""
    for file in (host.root / "etc/sensor/rules").iterdir():
        file.unlink()
    (host.root / "etc/sensor/rules/threat.json").write_text(json.dumps({"threat": {"rules": rules}}))


def state(host: Container, name: str, unit: str = UNIT) -> str:
    """Return a property of a unit (systemctl(1), show)."""
    return host.run("systemctl", "show", f"--property={name}", "--value", unit).stdout.strip()


def log(host: Container, unit: str = UNIT) -> str:
    """Return the journal of a unit."""
    return host.run("journalctl", "--output=cat", f"--unit={unit}").stdout


def program(host: Container) -> int | None:
    """Return the id of the program on the mirror port."""
    [link] = json.loads(host.run("ip", "-json", "-details", "link", "show", "eth1").stdout)
    return link["xdp"]["prog"]["id"] if "xdp" in link else None


def processes(host: Container, unit: str = UNIT) -> list[dict[str, str]]:
    """Return the status of each process of a unit (proc_pid_status(5))."""
    group = f"/sys/fs/cgroup/systemd/{state(host, 'ControlGroup', unit)}/cgroup.procs"
    if not (host.root / group[1:]).exists():
        group = group.replace("/systemd", "")
    found = host.run("sh", "-c", f"for pid in $(cat {group}); do cat /proc/$pid/status; echo; done").stdout
    return [dict(line.split(":\t", 1) for line in one.splitlines()) for one in found.split("\n\n") if one]


def test_commands_of_the_service_page_run(host: Container) -> None:
    """The set-up has run the first block; the second starts the services."""
    write_rules(host, HELLO)
    for command in START.splitlines():
        host.run("sh", "-c", command)
    assert program(host)
    host.run("systemctl", "disable", "--now", UNIT, "sensor-api")


def test_active_once_the_program_is_attached(host: Container) -> None:
    """The unit becomes active only then; after a stop no program is left."""
    write_rules(host, HELLO)
    host.run("systemctl", "start", "--no-block", UNIT)
    until(lambda: state(host, "ActiveState") == "active")
    assert program(host)
    until(lambda: "frames/s" in state(host, "StatusText"))
    host.run("systemctl", "stop", UNIT)
    assert program(host) is None
    assert (state(host, "ActiveState"), state(host, "Result")) == ("inactive", "success")
    assert '"restarts": 0' in log(host)


def test_evidence_comes_in_and_the_api_shows_it(service: Container, tmp_path: Path, few_rules: Path) -> None:
    """Traffic becomes evidence; the API runs without capabilities and can only read it."""
    for rules in few_rules.iterdir():
        shutil.copyfile(rules, service.root / "etc/sensor/rules" / rules.name)
    service.run("systemctl", "stop", UNIT)
    start(service)
    start(service, "sensor-api")
    write_capture(tmp_path / "traffic.pcap", mix.demo(seed=1).frames)
    replay("source", tmp_path / "traffic.pcap")

    def found() -> dict[str, Any]:
        url = "http://127.0.0.1:8321/api/v1/evidence?limit=1"
        answer = service.run("curl", "--silent", "--retry-connrefused", "--retry", "20", url)
        return json.loads(answer.stdout)

    until(lambda: found().get("items"))
    [api] = processes(service, "sensor-api")
    assert {int(api[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    by_rights = service.run("runuser", "--user=sensor-api", "--", "touch", "/data/cap/3/x", check=False)
    assert "Permission denied" in by_rights.stderr
    where_it_is = ("nsenter", f"--target={api['Pid']}", "--mount")
    by_mount = service.run(*where_it_is, "touch", "/data/cap/3/x", check=False)
    assert "Read-only file system" in by_mount.stderr
    hold_over_http(service)
    service.run("systemctl", "stop", "sensor-api")
    until(lambda: state(service, "ActiveState", "sensor-hold.socket") == "inactive")
    assert "sensor-hold" not in service.run("ps", "-e", "-o", "comm").stdout


def hold_over_http(service: Container) -> None:
    """Hold all evidence with a token of an administrator; a process of the owner writes it."""
    create = ("sensor", "token", "create", "chief", "--role=admin", "--config=/etc/sensor/sensor.toml")
    token = service.run("runuser", "--user=sensor", "--", *create).stdout.strip()
    address = "http://127.0.0.1:8321/api/v1/holds?reason=case"
    header = f"Authorization: Bearer {token}"
    held = json.loads(
        service.run("curl", "--silent", "--request", "POST", "--header", header, address).stdout
    )
    assert held.get("by") == "token chief", held
    listed = service.run("sensor", "evidence", "holds", "--config=/etc/sensor/sensor.toml").stdout
    assert held["hold"] in listed
    journal = (service.root / "data/cap/3/holds.jsonl").stat()
    assert journal.st_uid == (service.root / "data/cap/3").stat().st_uid


def test_no_process_has_more_capabilities_than_it_needs(service: Container) -> None:
    """Only the supervisor has some; each process has another user, none is root, all have a filter."""
    needs = {
        "sensor": CAPTURE | SWITCH,
        "sensor-metrics": 0,
        "sensor-worker0": 0,
        "sensor-events": 0,
        "sensor-files": 0,
        "sensor-index": 0,
    }
    found = processes(service)
    assert {one["Name"]: int(one["CapPrm"], 16) for one in found} == needs
    users = {one["Name"]: one["Uid"] for one in found}
    assert users.pop("sensor-files") == users.pop("sensor-index") == users["sensor"]
    assert len(set(users.values())) == len(users)
    for one in found:
        assert one["CapEff"] == one["CapPrm"]
        assert int(one["CapBnd"], 16) == needs[one["Name"]]
        assert "0" not in one["Uid"].split()
        assert (one["NoNewPrivs"], one["Seccomp"]) == ("1", "2")


def test_a_reload(service: Container) -> None:
    """New rules come into force; faulty rules make the reload fail, and nothing changes."""
    main = state(service, "MainPID")
    write_rules(service, WORLD)
    service.run("systemctl", "reload", UNIT)
    until(lambda: "1 rule in force" in log(service))
    until(lambda: state(service, "ActiveState") == "active")
    write_rules(service, {"1": HELLO["1"] | {"regex": "^(hello"}})
    assert service.run("systemctl", "reload", UNIT, check=False).returncode != 0
    assert "threat.json:1: rule 1: regex:" in log(service)
    assert (state(service, "ActiveState"), state(service, "MainPID")) == ("active", main)


def test_a_faulty_rule_at_the_start(host: Container) -> None:
    """The start fails, the journal has the reason and the fix, and nothing is attached."""
    write_rules(host, {"1": HELLO["1"] | {"port": 70_000}})
    assert host.run("systemctl", "start", UNIT, check=False).returncode != 0
    assert "list the faults: sensor rules check /etc/sensor/rules" in log(host)
    assert program(host) is None
    host.run("systemctl", "stop", UNIT)


def test_kill_9(service: Container) -> None:
    """No program is left attached; soon another sensor runs."""
    first = program(service)
    service.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", UNIT)
    until(lambda: program(service) is None)
    until(lambda: program(service) not in (None, first))
    until(lambda: state(service, "ActiveState") == "active")


def test_a_supervisor_that_hangs(host: Container) -> None:
    """The watchdog kills it, and another is started."""
    drop_in = host.root / "run/systemd/system/sensor@.service.d/watchdog.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=5s\n")
    host.run("systemctl", "daemon-reload")
    write_rules(host, HELLO)
    start(host)
    first = state(host, "MainPID")
    host.run("kill", f"-{signal.SIGSTOP}", first)
    until(lambda: state(host, "MainPID") not in (first, "0"))
    until(lambda: state(host, "ActiveState") == "active")
    assert "Watchdog timeout" in log(host)
    assert program(host)
    host.run("systemctl", "stop", UNIT)
    drop_in.unlink()
    host.run("systemctl", "daemon-reload")
