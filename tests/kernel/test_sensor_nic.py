"""What prepares an interface for capture, on real ones: it does what is asked, says so, and does it once."""

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
    """Run it as its unit does."""
    environment = {"PATH": os.environ["PATH"], **asked}
    return subprocess.run([SCRIPT, name], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("network")
def test_what_is_asked_is_done_once() -> None:
    """MTU, queues, and up; what is so already is left alone."""
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
def test_what_cannot_be_is_said() -> None:
    """In a line, with what to do; by the kernel's own words where it refuses."""
    assert prepare("eth7").stderr == "eth7: there is no such interface; see what is there: ip link\n"
    assert "mirror: has no interrupts of its own" in prepare("mirror", AFFINITY="0").stderr
    refused = prepare("mirror", MTU="1")
    assert refused.returncode
    assert "mtu" in refused.stderr
