"""Reasons to refuse an interface: they agree with the kernel, and their commands fix real devices."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import dpkt
import pytest
from live import PASS_ALL, SENSOR, Run, running, wait_until_received
from pyroute2 import IPRoute

from sensor.bench.private_network import private_network, veth_pair
from sensor.capture import xdp_features
from sensor.capture.attachment import Mode, attached, check_interface, find_interface
from sensor.capture.interface import Interface, default_workers
from sensor.capture.nic import nic_counters, read_nic
from sensor.capture.program import Program
from sensor.capture.refusals import hidden_tags, refusals
from sensor.errors import InterfaceError

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules", "network")]

BPF = Path(__file__).parents[2] / "bpf"
TAG = b"\x81\x00\x00\x05"
PUSH_TAG = """
#include <linux/bpf.h>
int push(struct __sk_buff *skb)
{
	bpf_skb_vlan_push(skb, bpf_htons(0x8100), 5);
	return -1; /* as if there were no filter */
}
"""


def sh(command: str, **options: object) -> None:
    """Run a command as a user would type it."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stderr}"


def commands(message: str) -> list[str]:
    """Return the commands in a refusal."""
    return re.findall(r"(?:ip link|ethtool) [^,;]*\w", message)


def only_refusal(interface: str | Interface, mode: Mode = "native") -> str:
    """Return the one reason why an interface is refused."""
    interface = find_interface(interface) if isinstance(interface, str) else interface
    [reason] = map(str, refusals(interface, mode))
    assert reason.startswith(f"{interface.name}: ")
    assert "\n" not in reason
    return reason


def refused_run(evidence: Path, *flags: str) -> str:
    """Return the last log line of a `sensor run` that refuses its interface."""
    command = [*SENSOR, "run", "--evidence", str(evidence), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (4, "")
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.fixture
def program() -> Iterator[Program]:
    """Load the prefilter without attaching it."""
    with closing(Program(PASS_ALL)) as loaded:
        yield loaded


def udp(payload: bytes, tag: bytes = b"") -> bytes:
    """Make a frame with payload, with or without a VLAN tag."""
    datagram = dpkt.udp.UDP(sport=4000, dport=5000, ulen=8 + len(payload), data=payload)
    packet = dpkt.ip.IP(src=b"\xc0\0\2\1", dst=b"\xc0\0\2\2", p=17, data=datagram)
    return b"\2" * 6 + b"\4" * 6 + tag + b"\x08\x00" + bytes(packet)


def send(*frames: bytes) -> None:
    """Send frames unchanged from the other end of the mirror port."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("source", 0))
        for frame in frames:
            sender.send(frame)
    wait_until_received("mirror", len(frames))


def evidence(run: Run) -> list[bytes]:
    """Return every stored frame."""
    return [frame for file in run.files for _, frame in dpkt.pcap.Reader(BytesIO(file.read_bytes()))]


def test_an_mtu_that_is_too_large() -> None:
    """The interface is refused, with the command that fixes it, if frames must fit into one buffer."""
    sh("ip link set source mtu 9000")
    message = only_refusal("mirror")
    assert "its peer source has MTU 9000" in message
    assert commands(message) == ["ip link set source mtu 3506"]
    sh(commands(message)[0])
    assert not list(refusals(find_interface("mirror"), "native"))


@pytest.mark.parametrize(("mtu", "fits"), [(3506, True), (3507, False)])
def test_the_mtu_limit_is_that_of_the_kernel(program: Program, mtu: int, fits: bool) -> None:
    """We refuse an MTU exactly if the kernel does."""
    sh(f"ip link set source mtu {mtu}")
    interface = find_interface("mirror")
    assert bool(list(refusals(interface, "native"))) is not fits
    assert not list(refusals(interface, "native", frags=True)) and interface.nic.xdp_frags
    if fits:
        with attached(program.fd, interface, "native"):
            return
    with (
        pytest.raises(InterfaceError, match="veth refuses native XDP"),
        attached(program.fd, interface, "native"),
    ):
        pass


def test_the_mtu_of_the_port_itself_does_not_matter_to_veth(tmp_path: Path) -> None:
    """The size of its frames is limited by the MTU of the other end."""
    sh("ip link set mirror mtu 9000")
    with running("mirror", tmp_path) as run:
        assert run.stop() == 0


def test_generic_mode_captures_frames_of_any_size(tmp_path: Path) -> None:
    """The limit applies to native mode only."""
    sh("ip link set source mtu 9000; ip link set mirror mtu 9000")
    frame = udp(b"x" * 8000)
    with running("mirror", tmp_path, "--mode", "generic", "--keep", "flow") as run:
        send(frame)
        assert run.stop() == 0
    assert evidence(run) == [frame]


@pytest.mark.parametrize("kind", ["bridge", "ifb", "macvlan", "vxlan", "dummy"])
def test_drivers_without_native_xdp(program: Program, kind: str) -> None:
    """They are refused before the attempt to attach, which would fail; generic mode works."""
    below = "link mirror" if kind == "macvlan" else ""
    settings = "id 5 dstport 4789" if kind == "vxlan" else ""
    made = subprocess.run(["bash", "-c", f"ip link add dut {below} type {kind} {settings}"], check=False)
    if made.returncode:
        pytest.skip(f"this kernel has no {kind}")
    sh("ip link set dut up")
    interface = find_interface("dut")
    assert only_refusal(interface) == (
        f"dut: the driver {kind} has no native XDP, so the program cannot run in native mode; "
        "use the slower --mode generic"
    )
    with pytest.raises(InterfaceError, match="--mode generic"), attached(program.fd, interface, "native"):
        pass
    with attached(program.fd, check_interface("dut", "generic"), "generic"):
        assert find_interface("dut").xdp_program_id


def test_a_kernel_that_does_not_report_xdp_features(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.3, nothing is refused beforehand, and the attempt to attach fails."""
    monkeypatch.setattr(xdp_features, "_FAMILY", "nosuch")
    able, unable = check_interface("mirror", "native"), check_interface("lo", "native")
    assert able.nic.native_xdp is unable.nic.native_xdp is None
    assert not able.nic.xdp_frags
    with attached(program.fd, able, "native"):
        assert find_interface("mirror").xdp_program_id
    with pytest.raises(InterfaceError, match="--mode generic"), attached(program.fd, unable, "native"):
        pass


def test_veth_with_too_few_queues(tmp_path: Path) -> None:
    """Veth needs at least as many receive queues as its peer has transmit queues; the command fixes that."""
    sh("ip link add few numrxqueues 1 numtxqueues 4 type veth peer name many numrxqueues 4 numtxqueues 2")
    sh("ip link set few up; ip link set many up")
    message = refused_run(tmp_path, "-i", "few")
    assert commands(message) == ["ethtool -L many tx 1"]
    sh(commands(message)[0])
    with running("few", tmp_path) as run:
        assert run.stop() == 0


def as_if(driver: str, on: set[str], fixed: set[str] | None = None) -> Interface:
    """Return the mirror port as if it had another driver and offloads, which no virtual device has."""
    interface = find_interface("mirror")
    changed = replace(interface.nic, driver=driver, offloads=frozenset(on), fixed=frozenset(fixed or ()))
    return replace(interface, mtu=1500, peer=None, nic=changed)


@pytest.mark.parametrize(
    ("driver", "offload", "command"),
    [
        ("mlx5_core", "lro", "ethtool -K mirror lro off"),
        ("mlx5_core", "rx-gro-hw", "ethtool -K mirror rx-gro-hw off"),
        ("bnxt_en", "lro", "ethtool -K mirror lro off"),
    ],
)
def test_merged_frames(driver: str, offload: str, command: str) -> None:
    """They are refused in native mode, with a valid command; in generic mode the kernel turns merging off."""
    interface = as_if(driver, {offload})
    message = only_refusal(interface)
    assert commands(message) == [command]
    sh(command)
    assert not list(refusals(interface, "generic"))
    assert "ethtool" not in only_refusal(as_if(driver, {offload}, fixed={offload}))


def test_drivers_that_stop_merging_by_themselves() -> None:
    """They turn GRO in hardware off when a program is attached; they are refused only if they cannot."""
    for driver in ("bnxt_en", "virtio_net"):
        assert not list(refusals(as_if(driver, {"rx-gro-hw"}), "native"))
        assert "--mode generic" in only_refusal(as_if(driver, {"rx-gro-hw"}, fixed={"rx-gro-hw"}))


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_stripped_tags(mode: Mode) -> None:
    """XDP does not see tags that the NIC strips, in either mode; the command turns stripping off."""
    tags = {"rxvlan", "rx-vlan-stag-hw-parse"}
    assert tags <= find_interface("mirror").nic.offloads
    message = only_refusal(as_if("ixgbe", tags), mode)
    assert commands(message) == ["ethtool -K mirror rx-vlan-stag-hw-parse off rxvlan off"]
    sh(commands(message)[0])
    assert not tags & find_interface("mirror").nic.offloads
    fixed = as_if("hv_netvsc", tags, fixed=tags)
    assert not list(refusals(fixed, mode))
    assert list(map(str, hidden_tags(fixed))) == [
        "mirror: hv_netvsc always strips VLAN tags before XDP, so evidence will lack them"
    ]


@contextmanager
def tags_by_the_stack() -> Iterator[None]:
    """Let the network stack tag frames of `source`, like for a VLAN device: outside the frame if it may."""
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF)
    from bcc import BPF as Bcc  # noqa: N811 - the class is named so

    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="source")[0]
        loaded = Bcc(text=PUSH_TAG.encode())
        push = loaded.load_func(b"push", Bcc.SCHED_CLS)
        netlink.tc("add", "clsact", index)
        netlink.tc(
            "add-filter", "bpf", index, ":1",
            fd=push.fd, name="push", parent="ffff:fff3", classid=1, direct_action=True,
        )  # fmt: skip
        yield
        loaded.cleanup()


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_tags_on_veth(tmp_path: Path, mode: str) -> None:
    """A tag in the frame is kept. A tag that the sender keeps outside the frame is not seen, and we warn."""
    assert not list(hidden_tags(find_interface("mirror")))  # private networks turn txvlan off
    plain, tagged = udp(b"payload"), udp(b"payload", TAG)
    sh("ethtool -K source txvlan on")
    with running("mirror", tmp_path / "1", "--mode", mode, "--keep", "flow") as run:
        send(tagged)
        assert run.stop() == 0
    assert evidence(run) == [tagged]

    [warning] = [line for line in run.log if "VLAN tags" in line]
    with tags_by_the_stack():
        for directory, kept in (("2", plain), ("3", tagged)):
            with running("mirror", tmp_path / directory, "--mode", mode, "--keep", "flow") as run:
                send(plain)
                assert run.stop() == 0
            assert evidence(run) == [kept]
            sh(*commands(warning))
    assert not [line for line in run.log if "VLAN tags" in line]


@contextmanager
def port_to_elsewhere() -> Iterator[str]:
    """Make a port whose other end has a large MTU, and is in a namespace where only the kernel sees it."""
    with private_network():
        elsewhere = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with IPRoute() as netlink:
        netlink.link("add", ifname="far", kind="veth", peer="beyond")
        netlink.link("set", index=netlink.link_lookup(ifname="beyond")[0], mtu=9000, net_ns_fd=elsewhere)
    sh("ip link set far up")
    sh(f"nsenter --net=/dev/fd/{elsewhere} ip link set beyond up", pass_fds=(elsewhere,))
    try:
        yield "far"
    finally:
        os.close(elsewhere)  # removes the namespace and both ends


def test_several_interfaces_are_attached_all_or_none(tmp_path: Path) -> None:
    """If the second one fails after the first was attached, both are detached, and the error says why."""
    with port_to_elsewhere() as far:
        message = refused_run(tmp_path, "-i", "mirror", "-i", far)
        assert message.startswith("sensor: far: veth refuses native XDP")
        assert "MTU" in message
        assert "--mode generic" in message
        assert find_interface("mirror").xdp_program_id is None
        assert find_interface(far).xdp_program_id is None


def test_default_number_of_workers() -> None:
    """There is one worker per CPU that a receive queue can keep busy."""
    sh("ip link add wide numrxqueues 4 type veth peer name other")
    one, four = find_interface("mirror"), find_interface("wide")
    assert (one.nic.receive_queues, four.nic.receive_queues) == (1, 4)
    assert find_interface("lo").nic.receive_queues == 1
    assert default_workers([one], online_cpus=8) == 1
    assert default_workers([four], online_cpus=8) == 4
    assert default_workers([four], online_cpus=2) == 2
    assert default_workers([one, four], online_cpus=8) == 5
    sh("ethtool -L wide rx 2")
    assert find_interface("wide").nic.receive_queues == 2


def test_losses_of_nic_and_driver(tmp_path: Path) -> None:
    """The counters include the driver's own of frames that XDP dropped."""
    before = nic_counters("mirror")
    assert not any(before.values())
    with running("mirror", tmp_path, "--action", "drop") as run:
        send(udp(b"payload"), udp(b"payload"))
        assert run.stop() == 0
    dropped = {name: count for name, count in nic_counters("mirror").items() if count}
    assert dropped == {"rx_queue_0_xdp_drops": 2}
    with pytest.raises(InterfaceError, match="nosuch0"):
        nic_counters("nosuch0")
    assert "rx_missed_errors" in nic_counters("lo")  # a driver without statistics of its own


def test_an_interface_that_is_removed_while_it_is_read() -> None:
    """The error is an InterfaceError."""
    with IPRoute() as netlink:
        [link] = netlink.get_links(netlink.link_lookup(ifname="mirror")[0])
        netlink.link("del", index=link["index"])
    with pytest.raises(InterfaceError, match="mirror: there is no such interface any more"):
        read_nic(link)


def test_reading_a_nic_needs_no_privileges() -> None:
    """A user without capabilities can read driver and counters."""
    veth_pair("other", "peer")
    look = (
        "from sensor.capture.interface import find_interface; from sensor.capture.nic import nic_counters;"
        "print(find_interface('other').nic.driver, len(nic_counters('other')))"
    )
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    done = subprocess.run([*bare, sys.executable, "-c", look], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("veth ")
