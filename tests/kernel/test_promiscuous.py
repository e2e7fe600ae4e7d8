"""Promiscuous mode: the frames on a mirror port are for other hosts, and the NIC must not drop them."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import closing
from io import BytesIO
from pathlib import Path

import dpkt
import pytest
from live import PASS_ALL, running
from processes import wait_until
from pyroute2 import IPRoute

from sensor.capture.attachment import attached, find_interface
from sensor.capture.program import Program
from sensor.errors import InterfaceError

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules", "network")]


def promiscuity(name: str) -> int:
    """Return how many requests for promiscuous mode an interface has."""
    with IPRoute() as netlink:
        [link] = netlink.get_links(ifname=name)
    return int(link.get_attr("IFLA_PROMISCUITY"))


def multicast_frame() -> bytes:
    """Make a frame to a multicast group that this host has not joined."""
    datagram = dpkt.udp.UDP(sport=4000, dport=5000, ulen=15, data=b"payload")
    packet = dpkt.ip.IP(src=b"\xc0\0\2\1", dst=b"\xe9\1\2\3", p=17, data=datagram)
    return b"\1\0\x5e\1\2\3" + b"\4" * 6 + b"\x08\x00" + bytes(packet)


def test_frames_that_the_interface_would_drop_are_seen(tmp_path: Path) -> None:
    """The frame reaches XDP: macvlan filters by address before XDP, as NICs do in hardware."""
    made = subprocess.run(["ip", "link", "add", "filter", "link", "mirror", "type", "macvlan"], check=False)
    if made.returncode:
        pytest.skip("this kernel has no macvlan")
    subprocess.run(["ip", "link", "set", "filter", "up"], check=True)
    frame = multicast_frame()
    with running("filter", tmp_path, "--mode", "generic", "--keep", "flow") as run:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("source", 0))
            sender.send(frame)
        wait_until(lambda: any(file.stat().st_size > 24 for file in run.files))
        assert run.stop() == 0
    assert [kept for file in run.files for _, kept in dpkt.pcap.Reader(BytesIO(file.read_bytes()))] == [frame]
    assert promiscuity("filter") == 0


def test_a_killed_sensor_leaves_nothing_behind(tmp_path: Path) -> None:
    """The kernel withdraws the request when the process ends."""
    with running("mirror", tmp_path) as run:
        assert promiscuity("mirror") == 1
        run.process.kill()
        run.process.wait()
        wait_until(lambda: promiscuity("mirror") == 0)


def test_detaching_does_not_wait_for_forked_processes() -> None:
    """A forked process has copies of the descriptors, but no frames arrive any more."""
    with closing(Program(PASS_ALL)) as program:
        reader, writer = os.pipe()
        with attached(program.fd, find_interface("mirror"), "native"):
            child = os.fork()
            if not child:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
        try:
            assert find_interface("mirror").xdp_program_id is None
            assert promiscuity("mirror") == 0
        finally:
            os.close(writer)
            os.close(reader)
            os.waitpid(child, 0)


def test_an_interface_that_is_removed() -> None:
    """Removal before attaching is an error; removal while attached is none."""
    gone = find_interface("mirror")
    with closing(Program(PASS_ALL)) as program:
        with attached(program.fd, gone, "native"):
            subprocess.run(["ip", "link", "del", "mirror"], check=True)
        with pytest.raises(InterfaceError, match="mirror: "), attached(program.fd, gone, "native"):
            pass
