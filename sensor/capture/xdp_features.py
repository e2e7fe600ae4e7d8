"""The XDP features of a network driver, from the generic netlink family ``netdev``.

Runs in the supervisor, and in ``sensor doctor``. The family exists since Linux 6.3
(Documentation/netlink/specs/netdev.yaml, linux/netdev.h). Any user may ask it.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from pyroute2.netlink import NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket, GenericNetlinkSocket

_FAMILY = "netdev"
_CMD_DEV_GET = 1
_XDP_ACT_BASIC = 1 << 0
_XDP_ACT_RX_SG = 1 << 5


class XdpFeatures(NamedTuple):
    """The XDP features of a driver."""

    native: bool
    """True if it runs programs itself (native mode)."""
    frags: bool
    """True if it passes frames of several buffers, to programs loaded with ``BPF_F_XDP_HAS_FRAGS``."""


class _DeviceMessage(genlmsg):  # type: ignore[misc]
    """The message of ``netdev`` about a device. The order of its attributes gives their numbers."""

    nla_map = (
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "none"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
    )


class _AsyncNetdev(AsyncGenericNetlinkSocket):  # type: ignore[misc]
    module_err_level = "debug"  # a kernel without the family is not an error


class _Netdev(GenericNetlinkSocket):  # type: ignore[misc]
    async_class = _AsyncNetdev


def read_xdp_features(index: int) -> XdpFeatures | None:
    """Return what the driver of an interface supports, by the interface's index.

    None if the kernel does not report it (before Linux 6.3), or the interface is gone.
    """
    request = _DeviceMessage()
    request["cmd"] = _CMD_DEV_GET
    request["version"] = 1
    request["attrs"] = [("NETDEV_A_DEV_IFINDEX", index)]
    with _Netdev() as netdev:
        try:
            netdev.bind(_FAMILY, _DeviceMessage)
            [device] = netdev.nlm_request(request, msg_type=netdev.prid, msg_flags=NLM_F_REQUEST)
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.ENODEV):
                return None
            raise
    actions: int | None = device.get_attr("NETDEV_A_DEV_XDP_FEATURES")
    if actions is None:
        return None
    return XdpFeatures(bool(actions & _XDP_ACT_BASIC), bool(actions & _XDP_ACT_RX_SG))
