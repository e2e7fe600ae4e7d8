"""The script ``sensor-nic``, which prepares an interface for capture, on real interfaces."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sensor.bench.private_network import veth_pair
from sensor.capture.interface import find_interface

pytestmark = pytest.mark.kernel
SCRIPT = Path(__file__).parents[2] / "ansible" / "roles" / "sensor" / "files" / "sensor-nic"


def prepare(name: str, **asked: str) -> subprocess.CompletedProcess[str]:
    """Run the script as its unit does."""
    environment = {"PATH": os.environ["PATH"], **asked}
    return subprocess.run([SCRIPT, name], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("network")
def test_changes_are_made_once() -> None:
    """It sets MTU and queues and brings the interface up; a second run changes nothing."""
    veth_pair("eth1", "peer", queues=2)
    subprocess.run(["ip", "link", "set", "eth1", "down"], check=True)
    done = prepare("eth1", MTU="2000", QUEUES="1")
    assert done.stdout.splitlines() == [
        "ethtool --features eth1 rx-vlan-offload off",
        "ethtool --features eth1 rx-vlan-stag-hw-parse off",
        "ip link set dev eth1 mtu 2000",
        "ethtool --set-channels eth1 rx 1",
        "ip link set dev eth1 up",
    ], done
    after = find_interface("eth1")
    assert (after.mtu, after.nic.receive_queues, "rxvlan" in after.nic.offloads) == (2000, 1, False)
    again = prepare("eth1", MTU="2000", QUEUES="1")
    assert (again.returncode, again.stdout) == (0, ""), again


@pytest.mark.usefixtures("network")
def test_errors() -> None:
    """Each error is one line with advice, or the kernel's own message."""
    assert prepare("eth7").stderr == "eth7: no such interface; list them: ip link\n"
    assert "mirror: has no interrupts of its own" in prepare("mirror", AFFINITY="0").stderr
    refused = prepare("mirror", MTU="1")
    assert refused.returncode
    assert "mtu" in refused.stderr
