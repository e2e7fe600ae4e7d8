"""A NIC and its driver: features, offloads, queues, and the frames they count as received or lost.

Runs in the supervisor, in the exporter and in ``sensor doctor``.

Offloads, channels and statistics come from the ethtool ioctl (linux/ethtool.h), everything else from
rtnetlink. Any user may read them. They describe the network namespace of the calling thread;
``/sys/class/net`` may describe another one.
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

from sensor.capture.xdp_features import read_xdp_features
from sensor.errors import InterfaceError

_OFFLOADS = {
    "lro": "rx-lro",
    "rx-gro-hw": "rx-gro-hw",
    "rxvlan": "rx-vlan-hw-parse",
    "rx-vlan-stag-hw-parse": "rx-vlan-stag-hw-parse",
    "txvlan": "tx-vlan-hw-insert",
}
"""The kernel's name of each offload, by its name in ``ethtool -K``."""

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
    """A NIC: its driver, and how it is set up."""

    driver: str | None
    """The kernel's name of the driver, such as ``ixgbe`` or ``veth``; None for the loopback interface."""
    device: Path | None
    """Directory of the device in sysfs; None for a virtual interface."""
    native_xdp: bool | None
    """True if the driver has native XDP; None if the kernel does not report it (before Linux 6.3)."""
    xdp_frags: bool
    """True if it passes frames of several buffers, to programs loaded with ``BPF_F_XDP_HAS_FRAGS``."""
    offloads: frozenset[str]
    """The LRO, GRO and VLAN offloads that are on, by their names in ``ethtool -K``."""
    fixed: frozenset[str]
    """The active offloads that cannot be turned off."""
    receive_queues: int
    transmit_queues: int
    receive_queues_max: int
    """The most receive queues that ``ethtool -L`` can set."""
    channels: str
    """The name of the receive queues in ``ethtool -L``: ``combined`` or ``rx``."""
    ring_frames: int
    """Number of frames that a receive queue holds; 0 if the driver does not report it."""
    ring_frames_max: int
    """Largest possible value of ``ring_frames``; 0 if the driver does not report it."""


def read_nic(link: Any) -> Nic:
    """Return the NIC of a link, an rtnetlink message.

    Raises:
        InterfaceError: The interface is gone.
    """
    name = link.get_attr("IFLA_IFNAME")
    xdp = read_xdp_features(link["index"])
    with _ethtool(name) as ethtool:
        features = ethtool.get_features()
        queues = _queues(ethtool, link)
        ring_frames, ring_frames_max = _ring_frames(ethtool)
    on = {word for word, feature in _OFFLOADS.items() if feature in features and features.is_active(feature)}
    changeable = {word for word in on if features.is_available(_OFFLOADS[word])}
    return Nic(
        driver=_driver(link),
        device=_device(link),
        native_xdp=None if xdp is None else xdp.native,
        xdp_frags=xdp is not None and xdp.frags,
        offloads=frozenset(on),
        fixed=frozenset(on - changeable),
        receive_queues=queues.receive,
        transmit_queues=queues.transmit,
        receive_queues_max=queues.receive_max,
        channels=queues.channels,
        ring_frames=ring_frames,
        ring_frames_max=ring_frames_max,
    )


def names_of(link: Any) -> list[str]:
    """Return the name of a link, an rtnetlink message, and its alternative names."""
    others = link.get_attr("IFLA_PROP_LIST")
    return [link.get_attr("IFLA_IFNAME"), *(others.get_attrs("IFLA_ALT_IFNAME") if others else ())]


def nic_counters(name: str) -> dict[str, int]:
    """Return counters of frames lost before XDP saw them, or by the driver's XDP code.

    They count from the moment the driver was loaded. Keys are the names in ``rtnl_link_stats64``
    (linux/if_link.h), and of the driver's own statistics about XDP. Not everything in them is a loss:
    ``rx_dropped`` includes frames that the host's network stack had no use for, and drivers include frames
    that a program drops on purpose.

    Raises:
        InterfaceError: There is no such interface.
    """
    link = _link(name)
    counted = link.get_attr("IFLA_STATS64")
    losses = {key: int(counted[key]) for key in _LOSSES}
    with _ethtool(link.get_attr("IFLA_IFNAME")) as ethtool, suppress(NotSupportedError):
        losses |= {key: int(value) for key, value in ethtool.get_statistics() if _XDP_LOSS.search(key)}
    return losses


class Received(NamedTuple):
    """Counts of an interface since it was created, by its driver."""

    frames: int
    bytes: int
    has_carrier: bool


def received(name: str) -> Received:
    """Return what an interface has received in total.

    Raises:
        InterfaceError: There is no such interface.
    """
    link = _link(name)
    counted = link.get_attr("IFLA_STATS64")
    return Received(int(counted["rx_packets"]), int(counted["rx_bytes"]), bool(link.get_attr("IFLA_CARRIER")))


def _link(name: str) -> Any:
    with IPRoute() as netlink:
        links = [link for link in netlink.get_links() if name in names_of(link)]
    if not links:
        raise _gone(name)
    return links[0]


@contextmanager
def _ethtool(name: str) -> Iterator[IoctlEthtool]:
    """Open an interface for ethtool ioctls; it may be removed between two of them."""
    with closing(IoctlEthtool(name)) as ethtool:
        try:
            yield ethtool
        except NoSuchDevice as error:
            raise _gone(name) from error
        except OSError as error:  # pyroute2 does not raise NoSuchDevice everywhere
            if error.errno != errno.ENODEV:
                raise
            raise _gone(name) from error


def _gone(name: str) -> InterfaceError:
    return InterfaceError(f"{name}: there is no such interface any more; list the interfaces: ip link")


def _device(link: Any) -> Path | None:
    name = link.get_attr("IFLA_PARENT_DEV_NAME")
    return Path("/sys/bus", link.get_attr("IFLA_PARENT_DEV_BUS_NAME"), "devices", name) if name else None


def _driver(link: Any) -> str | None:
    """Return the driver's name: the kind of a virtual device, else the driver on the device's bus."""
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
    """Return the numbers of queues in use, or of those allocated if the driver has no channels."""
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
