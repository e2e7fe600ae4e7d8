"""The playbook on Debian 13, which has another Python, another systemd, and another compiler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from container import booted, debian_tree
from live import replay, wait_until
from playbook import controller

from sensor.bench.private_network import private_network
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture

pytestmark = [pytest.mark.kernel, pytest.mark.deploy, pytest.mark.timeout(900)]


def test_traffic_becomes_evidence(tmp_path: Path, bundle: Path, few_rules: Path) -> None:
    """The same bundle and the same playbook work there."""
    variables = {
        "sensor_bundle": str(bundle),
        "sensor_interfaces": [{"name": "eth1", "devid": 1}],
        "sensor_settings": {"ring_mib": 1},
        "sensor_rules": str(few_rules),
    }
    write_capture(tmp_path / "traffic.pcap", mix.demo(seed=1).frames)
    tree = debian_tree("trixie")  # fetched outside the private network
    with (
        private_network(),
        booted(tree, [("eth1", "source")], log=tmp_path / "console") as host,
        controller(host, tmp_path, variables) as playbook,
    ):
        playbook.play()
        replay("source", tmp_path / "traffic.pcap")

        def found() -> object:
            url = "http://127.0.0.1:8321/api/v1/evidence?class=threat&limit=1"
            done = host.run("curl", "--silent", "--retry", "5", "--retry-connrefused", url)
            return json.loads(done.stdout)["items"]

        wait_until(found, every_s=0.2)
