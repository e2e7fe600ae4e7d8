"""The playbook on a Debian host: deploy, run again, upgrade, kill, reboot, refuse, remove.

All tests share one host. All but the last leave it as the first run of the playbook set it up.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from container import Container, booted, debian_tree
from live import replay, wait_until
from playbook import Controller, Variables, controller

from sensor.bench.private_network import private_network
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture

pytestmark = [pytest.mark.kernel, pytest.mark.deploy, pytest.mark.timeout(900)]

OPERATE = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
UNIT = "sensor@eth1"
MTU = 3000
PORT = {"name": "eth1", "devid": 1, "mtu": MTU}
SETTINGS = {
    "ring_mib": 1,  # fits even if root cannot raise the limit of locked memory
    "events": ["file:/var/log/sensor/eve.json?mib=0"],
    "audit": "/var/log/sensor-api/audit.jsonl",
}
Bad = Callable[[Container, Path], Variables]
API = "http://127.0.0.1:8321/api/v1"
IN_FORCE = """
find -L /etc/sensor /etc/systemd/system/sensor* -type f | sort | xargs sha256sum
readlink /opt/sensor/current
systemctl show --property=MainPID,ActiveState sensor@eth1 sensor-api
"""
"""Prints the files that the services start with, and their processes."""
STAYS = (
    "/data",
    "/etc/default/prometheus",
    "/etc/grafana",
    "/etc/prometheus",
    "/etc/systemd/system/multi-user",
    "/root",
    "/var/cache/apt",
    "/var/lib/grafana",
    "/var/lib/logrotate",
    "/var/lib/prometheus",
    "/var/lib/systemd",
    "/var/log",
    "/var/tmp",  # noqa: S108 - services have their own directories in it
)
"""Paths that a removal leaves: evidence, logs, monitoring, and files that any host writes."""
GRAFANA = """
[Service]
ExecStart=sleep infinity
[Install]
WantedBy=multi-user.target
"""


class Deployed(NamedTuple):
    """A host, the controller, and the paths on the host before the first run."""

    host: Container
    playbook: Controller
    before: set[str]


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, few_rules: Path, bundle: Path, next_bundle: Path
) -> Iterator[Deployed]:
    """Yield a host on which the playbook has run, first with --check.

    Both bundles exist before the private network is entered, because pip fetches packages for them.
    """
    assert next_bundle.exists()
    directory = tmp_path_factory.mktemp("controller")
    rules = shutil.copytree(few_rules, directory / "rules")
    variables = {
        "sensor_bundle": str(bundle),
        "sensor_interfaces": [PORT],
        "sensor_settings": SETTINGS,
        "sensor_rules": str(rules),
    }
    tree = debian_tree()  # fetched outside the private network
    with (
        private_network(),
        booted(tree, [("eth1", "source"), ("eth2", "elsewhere")], log=directory / "console") as host,
        controller(host, directory, variables) as playbook,
    ):
        stand_in_for_grafana(host)
        before = files(host)
        assert playbook.play("--check", "--diff", monitored=True, monitoring_grafana=True).changed
        assert files(host) - before == set()
        playbook.play(monitored=True, monitoring_grafana=True)
        yield Deployed(host, playbook, before)


@pytest.fixture
def host(deployed: Deployed) -> Container:
    """Return the host."""
    return deployed.host


@pytest.fixture
def playbook(deployed: Deployed) -> Controller:
    """Return the controller."""
    return deployed.playbook


def stand_in_for_grafana(host: Container) -> None:
    """Fake Grafana, which Debian does not have: its directories, and a service that does nothing."""
    host.run("mkdir", "-p", "/etc/grafana/provisioning/datasources", "/etc/grafana/provisioning/dashboards")
    host.run("tee", "/etc/systemd/system/grafana-server.service", text=GRAFANA)
    host.run("systemctl", "daemon-reload")


def files(host: Container) -> set[str]:
    """Return all paths on its disk except those in `STAYS`."""
    paths = host.run("find", "/", "-xdev").stdout.splitlines()
    return {path for path in paths if not path.startswith(STAYS)}


def state(host: Container, name: str, unit: str = UNIT) -> str:
    """Return a property of a unit."""
    return host.run("systemctl", "show", f"--property={name}", "--value", unit).stdout.strip()


def until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds; check it rarely, since each check starts a process."""
    wait_until(holds, every_s=0.2)


def get(host: Container, url: str) -> Any:
    """Return the JSON that a service of the host answers on loopback, once it listens."""
    command = ("curl", "--silent", "--fail", "--globoff", "--retry", "5", "--retry-connrefused", url)
    return json.loads(host.run(*command).stdout)


def kept(host: Container) -> int:
    """Return the number of evidence items that the API finds."""
    return sum(device["pieces"] for device in get(host, f"{API}/status")["devices"])


def scraped(host: Container, expression: str) -> float | None:
    """Return the value of an expression in the host's Prometheus, or None."""
    answer = get(host, f"http://127.0.0.1:9090/api/v1/query?query={expression}")
    found = answer["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def evidence_files(host: Container) -> set[str]:
    """Return the paths of the evidence files, as they are named once finished."""
    found = host.run("find", "/data/cap", "-name", "*.pcap*").stdout.splitlines()
    return {path.removesuffix(".temp") for path in found}


def send(directory: Path) -> None:
    """Send traffic with attacks in it to the mirror port."""
    write_capture(directory / "traffic.pcap", mix.demo(seed=1).frames)
    replay("source", directory / "traffic.pcap")


def test_traffic_becomes_evidence_and_figures(host: Container, tmp_path: Path) -> None:
    """The API finds it, the event file has it, and the deployed Prometheus counts it."""
    send(tmp_path)
    until(lambda: kept(host))
    found = get(host, f"{API}/evidence?class=threat&limit=100")["items"]
    assert {item["interface"] for item in found} == {"eth1"}
    until(lambda: scraped(host, 'sum(sensor_evidence_frames_total{outcome="written"})') == kept(host))
    assert host.run("grep", "-c", "signature_id", "/var/log/sensor/eve.json").stdout
    assert "/api/v1/evidence" in host.run("cat", SETTINGS["audit"]).stdout


def test_grafana_gets_its_dashboards(host: Container) -> None:
    """The data source has the address of Prometheus."""
    source = host.run("cat", "/etc/grafana/provisioning/datasources/prometheus.yml").stdout
    assert "url: http://127.0.0.1:9090" in source
    assert "throughput.json" in host.run("ls", "/var/lib/grafana/dashboards/sensor").stdout
    assert state(host, "ActiveState", "grafana-server") == "active"


def test_logrotate_rotates_the_events(host: Container, tmp_path: Path) -> None:
    """The sensor continues in a new file."""
    host.run("logrotate", "--force", "/etc/logrotate.d/sensor")

    def has_events() -> bool:
        send(tmp_path)  # events before the reopening go to the old file
        return host.run("cat", "/var/log/sensor/eve.json").stdout != ""

    until(has_events)


def test_a_second_run_changes_nothing(playbook: Controller) -> None:
    """A run with --check would not change anything either."""
    assert playbook.play(monitored=True, monitoring_grafana=True).changed == 0
    assert playbook.play("--check").changed == 0


def test_new_rules_are_reloaded(host: Container, playbook: Controller, tmp_path: Path) -> None:
    """The same process loads the new set; rules of a removed file are gone."""
    main = state(host, "MainPID")
    rules = Path(playbook.variables["sensor_rules"])
    shutil.copy(rules / "threat.json", tmp_path)
    playbook.play(sensor_rules=str(tmp_path))
    until(lambda: {rule["class"] for rule in get(host, f"{API}/rules")["rules"]} == {"threat"})
    assert (state(host, "ActiveState"), state(host, "MainPID")) == ("active", main)


def test_a_marked_packet_reaches_every_stage(host: Container, playbook: Controller) -> None:
    """The play follows one through the running services, down to the API."""
    before = kept(host)
    result = playbook.play("-v", sensor_selftest=True)
    for stage in ("capturing", "seen", "matched", "written", "indexed", "served"):
        assert re.search(rf"ok +{stage} ", result.output), result.output
    assert result.changed == 0
    assert kept(host) == before + 1


def test_an_upgrade_and_a_rollback(host: Container, playbook: Controller, next_bundle: Path) -> None:
    """The upgrade adds a port, the rollback removes it; evidence stays."""
    before = kept(host)
    other = {"name": "eth2", "devid": 2, "metrics": "127.0.0.1:9322"}
    playbook.play(sensor_bundle=str(next_bundle), sensor_interfaces=[PORT, other])
    assert get(host, f"{API}/status")["version"] == "9.8.7"
    assert state(host, "ActiveState", "sensor@eth2") == "active"
    assert kept(host) == before
    playbook.play()
    assert get(host, f"{API}/status")["version"] != "9.8.7"
    assert state(host, "ActiveState", "sensor@eth2") == "inactive"
    assert kept(host) == before


def test_commands_of_the_operators_page_run(host: Container, tmp_path: Path) -> None:
    """The commands for a sensor's host run in order; the other tests run those for the controller."""
    send(tmp_path)
    until(lambda: kept(host))
    for block in re.findall(r"```sh\n(.*?)```", OPERATE, re.DOTALL):
        if "ansible-playbook" not in block:
            host.run("bash", "-e", "-c", f"cd /root; {block}")
            host.run("rm", "/root/threats.pcapng")


def test_kill_9(host: Container, tmp_path: Path) -> None:
    """Another sensor starts soon and stores new evidence."""
    before, main = kept(host), state(host, "MainPID")
    host.run("kill", "-9", main)
    until(lambda: state(host, "MainPID") not in (main, "0") and state(host, "ActiveState") == "active")
    send(tmp_path)
    until(lambda: kept(host) > before)


def test_a_reboot(host: Container, playbook: Controller, tmp_path: Path) -> None:
    """The port is prepared, the services start, evidence is kept and grows."""
    before = kept(host)
    playbook.hang_up()
    host.run("ip", "link", "set", "eth1", "mtu", "1500")
    host.reboot()
    until(lambda: state(host, "ActiveState") == "active")
    [link] = json.loads(host.run("ip", "-json", "link", "show", "eth1").stdout)
    assert link["mtu"] == MTU
    until(lambda: state(host, "ActiveState", "sensor-api") == "active" and kept(host) >= before)
    send(tmp_path)
    until(lambda: kept(host) > before)


def _no_such_port(_host: Container, _directory: Path) -> Variables:
    return {"sensor_interfaces": [PORT, PORT | {"name": "eth7", "devid": 2, "metrics": "127.0.0.1:9322"}]}


def _port_without_xdp(_host: Container, _directory: Path) -> Variables:
    return {"sensor_interfaces": [PORT, {"name": "lo", "devid": 2, "metrics": "127.0.0.1:9322"}]}


def _old_kernel(host: Container, _directory: Path) -> Variables:
    """Pretend an old kernel (personality(2), UNAME26)."""
    python = "/root/python-on-old-kernel"
    host.run("tee", python, text='#!/bin/sh\nexec setarch --uname-2.6 /usr/bin/python3 "$@"\n')
    host.run("chmod", "755", python)
    return {"ansible_python_interpreter": python}


def _full_disk(host: Container, _directory: Path) -> Variables:
    host.run("mkdir", "-p", "/data/full")
    host.run("mount", "-t", "tmpfs", "-o", "size=4m", "full", "/data/full")
    host.run("mkdir", "/data/full/cap")
    host.run("sh", "-c", "cat /dev/zero > /data/full/zeros", check=False)
    return {"sensor_settings": SETTINGS | {"evidence": "/data/full/cap"}}


def _faulty_rule(_host: Container, directory: Path) -> Variables:
    rule = {"type": "T", "name": "open", "protocol": "udp", "regex": "^(hello"}
    (directory / "threat.json").write_text(json.dumps({"threat": {"rules": {"1": rule}}}))
    return {"sensor_rules": str(directory)}


def _faulty_setting(_host: Container, _directory: Path) -> Variables:
    return {"sensor_settings": SETTINGS | {"ring_mib": 3}}


def _torn_bundle(_host: Container, directory: Path) -> Variables:
    torn = directory / "sensor-9.9.9-x86_64-bundle.tar.gz"
    torn.write_bytes(b"\x1f\x8b\x08\0")
    return {"sensor_bundle": str(torn)}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (_no_such_port, "probe has no interface eth7"),
        (_port_without_xdp, "lo: this kind of interface has no native XDP"),
        (_old_kernel, "the sensor needs 5.15 or newer"),
        (_full_disk, "0 MiB are free for /data/full/cap"),
        (_faulty_rule, "threat.json:1: rule 1: regex:"),
        (_faulty_setting, "ring_mib: must be a power of two"),
        (_torn_bundle, "gzip: stdin: unexpected end of file"),
    ],
)
def test_a_failed_check_touches_nothing(
    host: Container, playbook: Controller, tmp_path: Path, bad: Bad, why: str
) -> None:
    """The play stops with the reason, and the sensor continues unchanged."""
    variables = bad(host, tmp_path)
    before = host.run("sh", "-c", IN_FORCE).stdout
    assert before.count("ActiveState=active") == 2
    result = playbook.play(check=False, **variables)
    assert result.returncode != 0
    assert why in result.output
    assert host.run("sh", "-c", IN_FORCE).stdout == before


def test_removal_leaves_evidence_and_logs(deployed: Deployed) -> None:
    """Nothing else is left on the host. This must be the last test."""
    host, playbook, before = deployed
    evidence = evidence_files(host)
    playbook.play(sensor_state="absent")
    assert files(host) - before == set()
    assert evidence_files(host) == evidence
    assert host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "sensor*").stdout == ""
    assert "xdp" not in host.run("ip", "link", "show", "eth1").stdout
    assert playbook.play(sensor_state="absent").changed == 0
