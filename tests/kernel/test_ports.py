"""Ports of `sensor run` that come and go, have several names, or no Ethernet header."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live import SENSOR, ask_until, replay, running
from processes import wait_until
from pyroute2 import IPRoute
from test_run import Network, assert_law, comparable, frames_of, read_of, refused

from sensor.bench.private_network import veth_pair
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.evidence.pcap import file_header, record_header
from sensor.metrics import catalogue as c
from sensor.metrics.figures import Figures
from sensor.model import LinkType

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_IP_ETHERTYPES = (b"\x08\x00", b"\x86\xdd")


@contextmanager
def tun_device(name: str) -> Iterator[int]:
    """Create a tun device, which is up; what is written to the descriptor is received there."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        ip("link", "set", name, "up")
        yield fd
    finally:
        os.close(fd)


def ip(*arguments: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def seen(name: str) -> Callable[..., float]:
    """Return a function for `ask_until`: the frames seen at a port."""
    return lambda figures: figures.total(c.SEEN, interface=name) or 0


def attached(figures: Figures) -> dict[str, float]:
    """Return 1 for each port that is captured on, 0 for one that is lost."""
    return figures.by("interface", c.ATTACHED)


@pytest.fixture
def other(network: Network) -> Network:  # noqa: ARG001 - it is the namespace
    """Create a second pair."""
    veth_pair("mirror2", "source2")
    return "mirror2", "source2"


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    """Write some traffic to a file."""
    path = tmp_path / "traffic.pcap"
    write_capture(path, mix.demo(seed=1).frames[:500])
    return path


@pytest.mark.usefixtures("network")
def test_packets_without_ethernet_header(tmp_path: Path) -> None:
    """The evidence of a tun device is that of a file with the same packets as raw IP; so is the law."""
    frames = [frame for frame in mix.demo(seed=1).frames if frame.data[12:14] in _IP_ETHERTYPES]
    packets = [frame.data[14:] for frame in frames]
    records = (
        record_header(frame.time_us, len(data), len(data)) + data
        for frame, data in zip(frames, packets, strict=True)
    )
    path = tmp_path / "raw.pcap"
    path.write_bytes(file_header(LinkType.RAW) + b"".join(records))
    with tun_device("tun0") as fd, running("tun0", tmp_path / "evidence", "--mode", "generic") as run:
        for packet in packets:
            os.write(fd, packet)
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed, counters.undecodable) == (len(packets), 0, 0)
    assert sum(counters.ignored.values()) > 0
    matches, evidence = read_of(path, tmp_path / "read")
    assert comparable(run.matches) == comparable(matches) != []
    assert sorted(frames_of(run.files)) == sorted(frames_of(evidence))
    assert all("linktype101" in file.name for file in run.files)


@pytest.mark.usefixtures("network")
def test_both_kinds_of_frames_are_refused(tmp_path: Path) -> None:
    """One sensor has ports of one kind; `run` and `doctor` say so."""
    with tun_device("tun0"):
        code, line = refused(
            "run", "-i", "mirror", "-i", "tun0", "--mode", "generic", "--evidence", str(tmp_path)
        )
        done = subprocess.run(
            [*SENSOR, "doctor", "mirror", "tun0"], capture_output=True, text=True, check=False
        )
    assert code == 4
    for text in (line, done.stdout):
        assert "tun0: has packets without an Ethernet header, but mirror has Ethernet frames" in text


def test_alternative_names(network: Network, traffic: Path, tmp_path: Path) -> None:
    """A port may be named by each of its names, and is captured once; `doctor` knows them too."""
    ip("link", "property", "add", "dev", "mirror", "altname", "the-mirror-port-of-this-host")
    flags = ("-i", "mirror", "--metrics", "127.0.0.1:9321")
    with running("the-mirror-port-of-this-host", tmp_path / "evidence", *flags) as run:
        replay(network[1], traffic)
        figures = ask_until(lambda one: seen("mirror")(one) == 500 and attached(one)["mirror"])
        assert attached(figures) == {"mirror": 1}
        assert figures.total(c.RECEIVED, interface="mirror") == 500
        assert run.stop() == 0
    assert assert_law(run).seen == 500
    done = subprocess.run(
        [*SENSOR, "doctor", "the-mirror-port-of-this-host", "--json"], capture_output=True, check=False
    )
    assert b"there is no such interface" not in done.stdout


@contextmanager
def another_namespace() -> Iterator[int]:
    """Yield the id of a process in another network namespace."""
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) as process:
        theirs, ours = Path(f"/proc/{process.pid}/ns/net"), Path("/proc/thread-self/ns/net")
        wait_until(lambda: theirs.readlink() != ours.readlink())
        yield process.pid
        process.stdin.close() if process.stdin else None


def lose(how: str, name: str, pid: int) -> None:
    """Let a port be gone."""
    if how == "renamed to lan9":
        ip("link", "set", name, "down")
        ip("link", "set", name, "name", "lan9")
    elif how == "deleted":
        ip("link", "del", name)
    else:
        ip("link", "set", name, "netns", str(pid))


FATES = ("renamed to lan9", "deleted", "moved to another network namespace")


@pytest.mark.parametrize("how", FATES)
def test_the_only_port_is_lost(network: Network, tmp_path: Path, how: str) -> None:
    """The sensor ends, and says what became of the port."""
    with another_namespace() as pid, running(network[0], tmp_path) as run:
        lose(how, network[0], pid)
        assert run.wait() == 4
    assert run.log[-1].endswith(f"mirror: there is no such interface any more: it was {how}")
    assert_law(run)


@pytest.mark.parametrize("how", FATES)
def test_one_of_two_ports_is_lost(
    network: Network, other: Network, traffic: Path, tmp_path: Path, how: str
) -> None:
    """The other goes on; the lost one is attached again when it is back, and counts on where it was."""
    flags = ("-i", other[0], "--metrics", "127.0.0.1:9321")
    with another_namespace() as pid, running(network[0], tmp_path / "evidence", *flags) as run:
        replay(other[1], traffic)
        ask_until(lambda figures: seen(other[0])(figures) == 500)
        lose(how, other[0], pid)
        figures = ask_until(lambda figures: attached(figures) == {"mirror": 1, "mirror2": 0})
        assert not figures.by("source", c.SOURCE_UP) or all(figures.by("source", c.SOURCE_UP).values())
        replay(network[1], traffic)
        ask_until(lambda figures: seen(network[0])(figures) == 500)
        restore(how, *other)
        ask_until(lambda figures: attached(figures) == {"mirror": 1, "mirror2": 1})
        replay(other[1], traffic)
        ask_until(lambda figures: seen(other[0])(figures) == 1000)
        assert run.stop() == 0
    assert assert_law(run).seen == 1500
    assert any(f"mirror2: there is no such interface any more: it was {how}" in line for line in run.log)
    assert any("mirror2: frames are captured again" in line for line in run.log)
    assert {match["interface"] for match in run.matches} == {"mirror", "mirror2"}


def restore(how: str, mirror: str, source: str) -> None:
    """Let the port be there again, under its name."""
    if how == "renamed to lan9":
        ip("link", "set", "lan9", "name", mirror)
        ip("link", "set", mirror, "up")
        return
    with IPRoute() as netlink:
        if netlink.link_lookup(ifname=source):
            ip("link", "del", source)
    veth_pair(mirror, source)


def test_a_lost_port_does_not_stop_a_reload(
    network: Network, other: Network, traffic: Path, tmp_path: Path
) -> None:
    """New rules come into force while a port is lost, and are those of the port once it is back."""
    flags = ("-i", other[0], "--metrics", "127.0.0.1:9321")
    with running(network[0], tmp_path / "evidence", *flags) as run:
        lose("deleted", other[0], 0)
        ask_until(lambda figures: attached(figures) == {"mirror": 1, "mirror2": 0})
        before = ask_until(lambda figures: figures.total(c.LAST_LOAD)).total(c.LAST_LOAD)
        run.process.send_signal(signal.SIGHUP)
        ask_until(lambda figures: figures.total(c.LAST_LOAD) != before)
        restore("deleted", *other)
        ask_until(lambda figures: attached(figures) == {"mirror": 1, "mirror2": 1})
        replay(other[1], traffic)
        ask_until(lambda figures: seen(other[0])(figures) == 500)
        assert run.stop() == 0
    assert assert_law(run).seen == 500
