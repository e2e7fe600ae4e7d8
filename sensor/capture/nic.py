"""What a driver and its NIC can do, do by themselves, and lose before XDP.

Runs in the supervisor, and in ``sensor doctor``.

Features, channels and statistics come from the ethtool ioctl (linux/ethtool.h), XDP features from the
generic netlink family ``netdev`` (Linux 6.3, Documentation/netlink/specs/netdev.yaml), the rest from
rtnetlink. All of it may be read by any user, and is of the calling thread's network namespace, which
``/sys/class/net`` need not be.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import IoctlEthtool, NoSuchDevice, NotSupportedError
from pyroute2.netlink import NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket, GenericNetlinkSocket

from sensor.errors import InterfaceError

_OFFLOADS = {
    "lro": "rx-lro",
    "rx-gro-hw": "rx-gro-hw",
    "rxvlan": "rx-vlan-hw-parse",
    "rx-vlan-stag-hw-parse": "rx-vlan-stag-hw-parse",
    "txvlan": "tx-vlan-hw-insert",
}
"""What ``ethtool -K`` calls an offload, and what the kernel does."""

_NETDEV_FAMILY = "netdev"
_NETDEV_CMD_DEV_GET = 1
_XDP_ACT_BASIC = 1 << 0
_XDP_ACT_RX_SG = 1 << 5

_LOSSES = (
    "rx_dropped",
    "rx_errors",
    "rx_missed_errors",
    "rx_over_errors",
    "rx_fifo_errors",
    "rx_length_errors",
    "rx_crc_errors",
    "rx_frame_errors",
)
_XDP_LOSS = re.compile(r"^(?!tx).*xdp.*(drop|err|abort|exception|invalid)")


@dataclass(frozen=True, slots=True)
class Nic:
    """A driver, and how it is set up."""

    driver: str | None
    """The kernel's name for it: ``ixgbe``, ``veth``; None for the loopback."""
    device: Path | None
    """Where sysfs describes what the interface belongs to; None for a virtual one."""
    native_xdp: bool | None
    """None: the kernel does not say (before 6.3), an attempt will."""
    xdp_frags: bool
    """It gives XDP frames of more than one buffer, to a program loaded with ``BPF_F_XDP_HAS_FRAGS``."""
    offloads: frozenset[str]
    """Those of LRO, GRO and VLAN offloads that are on, in the words of ``ethtool -K``."""
    fixed: frozenset[str]
    """Those of them that cannot be turned off."""
    receive_queues: int
    transmit_queues: int
    receive_queues_max: int
    """As many as ``ethtool -L`` can make them."""
    channels: str
    """What ``ethtool -L`` calls them: ``combined`` or ``rx``."""
    ring_frames: int
    """Frames that a receive queue holds, and at most could; 0 where the driver does not say."""
    ring_frames_max: int


def read_nic(link: Any) -> Nic:
    """Ask driver and kernel about a link of rtnetlink's.

    Raises:
        InterfaceError: It went away meanwhile.
    """
    name = link.get_attr("IFLA_IFNAME")
    xdp = _xdp_features(link["index"])
    with _ethtool(name) as ethtool:
        features = ethtool.get_features()
        queues = _queues(ethtool, link)
        ring_frames, ring_frames_max = _ring_frames(ethtool)
    on = {word for word, feature in _OFFLOADS.items() if feature in features and features.is_active(feature)}
    can_change = {word for word in on if features.is_available(_OFFLOADS[word])}
    return Nic(
        driver=_driver(link),
        device=_device(link),
        native_xdp=None if xdp is None else bool(xdp & _XDP_ACT_BASIC),
        xdp_frags=bool((xdp or 0) & _XDP_ACT_RX_SG),
        offloads=frozenset(on),
        fixed=frozenset(on - can_change),
        receive_queues=queues.receive,
        transmit_queues=queues.transmit,
        receive_queues_max=queues.receive_max,
        channels=queues.channels,
        ring_frames=ring_frames,
        ring_frames_max=ring_frames_max,
    )


def nic_counters(name: str) -> dict[str, int]:
    """Frames that were lost before XDP saw them, or by the driver around XDP, since the driver was loaded.

    Keys are the kernel's names: of ``rtnl_link_stats64`` (linux/if_link.h), and those of the driver's own
    statistics that speak of XDP. Not all of it is loss: ``rx_dropped`` counts also what the host's stack had
    no use for, and drivers count what a program drops on purpose.

    Raises:
        InterfaceError: There is no interface of this name.
    """
    counted = _link(name).get_attr("IFLA_STATS64")
    losses = {key: int(counted[key]) for key in _LOSSES}
    with _ethtool(name) as ethtool, suppress(NotSupportedError):
        losses |= {key: int(value) for key, value in ethtool.get_statistics() if _XDP_LOSS.search(key)}
    return losses


class Received(NamedTuple):
    """What an interface has received since it was made, as its driver counts."""

    frames: int
    bytes: int
    has_carrier: bool


def received(name: str) -> Received:
    """Ask what an interface has received, whatever became of it.

    Raises:
        InterfaceError: There is no interface of this name.
    """
    link = _link(name)
    counted = link.get_attr("IFLA_STATS64")
    return Received(int(counted["rx_packets"]), int(counted["rx_bytes"]), bool(link.get_attr("IFLA_CARRIER")))


def _link(name: str) -> Any:
    with IPRoute() as netlink:
        links = [link for link in netlink.get_links() if link.get_attr("IFLA_IFNAME") == name]
    if not links:
        raise _gone(name)
    return links[0]


@contextmanager
def _ethtool(name: str) -> Iterator[IoctlEthtool]:
    """Ask an interface by ioctl, which may go away between two questions."""
    with closing(IoctlEthtool(name)) as ethtool:
        try:
            yield ethtool
        except NoSuchDevice as error:
            raise _gone(name) from error
        except OSError as error:  # what pyroute2 makes no NoSuchDevice of
            if error.errno != errno.ENODEV:
                raise
            raise _gone(name) from error


def _gone(name: str) -> InterfaceError:
    return InterfaceError(f"{name}: there is no such interface any more; see what is there: ip link")


def _device(link: Any) -> Path | None:
    name = link.get_attr("IFLA_PARENT_DEV_NAME")
    return Path("/sys/bus", link.get_attr("IFLA_PARENT_DEV_BUS_NAME"), "devices", name) if name else None


def _driver(link: Any) -> str | None:
    """The driver's name: by kind for virtual devices, else by the bus that the device is on."""
    info = link.get_attr("IFLA_LINKINFO")
    kind: str | None = info.get_attr("IFLA_INFO_KIND") if info else None
    device = _device(link)
    if kind or not device:
        return kind
    driver = device / "driver"
    return driver.resolve().name if driver.exists() else None


class _Queues(NamedTuple):
    receive: int
    transmit: int
    receive_max: int
    channels: str


def _queues(ethtool: IoctlEthtool, link: Any) -> _Queues:
    """Queues in use, to receive and to transmit; those allocated where the driver has no channels."""
    try:
        channels = ethtool.get_channels()
    except NotSupportedError:
        allocated = link.get_attr("IFLA_NUM_RX_QUEUES")
        return _Queues(allocated, link.get_attr("IFLA_NUM_TX_QUEUES"), allocated, "combined")
    combined = channels.combined_count
    receive = max(1, combined + channels.rx_count)
    return _Queues(
        receive,
        max(1, combined + channels.tx_count),
        max(receive, channels.max_combined, channels.max_rx),
        "combined" if channels.max_combined else "rx",
    )


def _ring_frames(ethtool: IoctlEthtool) -> tuple[int, int]:
    try:
        rings = ethtool.get_rings()
    except NotSupportedError:
        return 0, 0
    return rings.rx, rings.rx_max


class _DeviceMessage(genlmsg):  # type: ignore[misc]
    """``netdev``'s description of a device; its attributes are numbered by their order."""

    nla_map = (
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "none"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
    )


class _AsyncNetdev(AsyncGenericNetlinkSocket):  # type: ignore[misc]
    module_err_level = "debug"  # an older kernel is no error


class _Netdev(GenericNetlinkSocket):  # type: ignore[misc]
    async_class = _AsyncNetdev


def _xdp_features(index: int) -> int | None:
    """``NETDEV_XDP_ACT_*`` of a device (linux/netdev.h); None where the kernel does not tell."""
    request = _DeviceMessage()
    request["cmd"] = _NETDEV_CMD_DEV_GET
    request["version"] = 1
    request["attrs"] = [("NETDEV_A_DEV_IFINDEX", index)]
    with _Netdev() as netdev:
        try:
            netdev.bind(_NETDEV_FAMILY, _DeviceMessage)
            [device] = netdev.nlm_request(request, msg_type=netdev.prid, msg_flags=NLM_F_REQUEST)
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.ENODEV):
                return None
            raise
    features: int | None = device.get_attr("NETDEV_A_DEV_XDP_FEATURES")
    return features
