"""What keeps XDP from seeing an interface's frames as they came, and the command that mends it.

Runs in the supervisor, before anything is attached. Limits and habits of drivers were read in their
sources, those of veth also tried; what is not known here, the attempt to attach finds out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

from sensor.capture.interface import Interface, find_peer

Mode = Literal["native", "generic"]

_SINGLE_BUFFER_MTU = {
    "bnxt_en": 3502,
    "ena": 3498,
    "i40e": 3046,
    "ice": 3046,
    "igb": 3046,
    "igc": 1500,
    "ixgbe": 3050,
    "mlx5_core": 3498,
    "veth": 3506,
    "virtio_net": 3506,
}
"""Largest MTU whose frames a driver puts into one buffer for XDP, with pages of 4 KiB (veth: the peer's)."""

_TURN_GRO_HW_OFF = {"bnxt_en", "qede", "virtio_net"}
"""Drivers that turn it off by themselves when a program is attached."""


def refusals(interface: Interface, mode: Mode, *, frags: bool = False) -> Iterator[str]:
    """Say all that keeps a program from being attached, or from seeing frames as they came; a line each.

    Driver, MTU and merged frames matter in native mode only: for generic mode the kernel turns LRO and
    GRO in hardware off by itself, and gives the program frames of any size. Stripped tags matter in both.

    Args:
        interface: To attach to.
        mode: To attach in.
        frags: The program takes frames of several buffers: it was loaded with ``BPF_F_XDP_HAS_FRAGS``.
    """
    name, program = interface.name, interface.xdp_program_id
    if not interface.has_carrier:
        yield (
            f"{name}: no carrier, so nothing can be captured; "
            f"plug the cable in or bring it up: ip link set {name} up"
        )
    if program is not None:
        yield (
            f"{name}: XDP program {program} is attached already (another sensor?); "
            f"look: bpftool prog show id {program}; remove it: ip link set {name} xdp off"
        )
    if mode == "native":
        yield from _merged_frames(interface)
        if interface.nic.native_xdp is False:
            yield _no_native_xdp(interface)
        elif not (frags and interface.nic.xdp_frags):
            yield from _large_mtu(interface)
    yield from _stripped_tags(interface)


def hidden_tags(interface: Interface) -> Iterator[str]:
    """Say whose VLAN tags will be missing although nothing can, or need, be done about it."""
    name, nic = interface.name, interface.nic
    if nic.fixed.intersection(_stripping(interface)):
        yield f"{name}: {nic.driver} strips VLAN tags and cannot do otherwise: evidence will lack them"
    peer = find_peer(interface)
    if peer and "txvlan" in peer.nic.offloads:
        yield (
            f"{name}: VLAN tags that this host itself puts on frames to {peer.name} (VLAN devices, bridges, "
            f"tc) are not seen; where they matter: ethtool -K {peer.name} txvlan off"
        )


def _merged_frames(interface: Interface) -> Iterator[str]:
    """LRO and GRO in hardware make one frame of several: drivers refuse XDP, or show it what never was."""
    name, nic = interface.name, interface.nic
    for offload in ("lro", "rx-gro-hw"):
        if offload not in nic.offloads:
            continue
        merges = f"{name}: {offload} is on, so the NIC merges frames before XDP would see them"
        if offload in nic.fixed:
            yield f"{merges}, and {nic.driver} cannot turn it off; accept the slower --mode generic"
        elif offload == "lro" or nic.driver not in _TURN_GRO_HW_OFF:
            yield f"{merges}; turn it off: ethtool -K {name} {offload} off"


def _no_native_xdp(interface: Interface) -> str:
    name, nic = interface.name, interface.nic
    peer = find_peer(interface)
    if peer and peer.nic.transmit_queues > nic.receive_queues:  # the one thing that veth wants
        return (
            f"{name}: its peer {peer.name} sends on {peer.nic.transmit_queues} queues and {name} receives on "
            f"{nic.receive_queues}, so veth has no native XDP; use as many: "
            f"ethtool -L {peer.name} tx {nic.receive_queues}"
        )
    driver = f"the driver {nic.driver}" if nic.driver else "this kind of interface"
    return f"{name}: {driver} has no native XDP; accept the slower --mode generic"


def _large_mtu(interface: Interface) -> Iterator[str]:
    name, driver = interface.name, interface.nic.driver
    sender = find_peer(interface) if driver == "veth" else interface
    limit = _SINGLE_BUFFER_MTU.get(driver or "")
    if limit and sender and sender.mtu > limit and os.sysconf("SC_PAGE_SIZE") == 4096:
        whose = "MTU" if sender is interface else f"its peer {sender.name} has MTU"
        yield (
            f"{name}: {whose} {sender.mtu}, and frames above {limit} do not fit into the one buffer that "
            f"{driver} gives XDP; lower it: ip link set {sender.name} mtu {limit}, "
            "or accept the slower --mode generic"
        )


def _stripping(interface: Interface) -> list[str]:
    """Offloads that take VLAN tags off; veth only has them in name."""
    if interface.nic.driver == "veth":
        return []
    return sorted(interface.nic.offloads & {"rxvlan", "rx-vlan-stag-hw-parse"})


def _stripped_tags(interface: Interface) -> Iterator[str]:
    name = interface.name
    on = [offload for offload in _stripping(interface) if offload not in interface.nic.fixed]
    if on:
        switches = " ".join(f"{offload} off" for offload in on)
        yield (
            f"{name}: {' and '.join(on)} is on, so the NIC strips VLAN tags and evidence would lack them; "
            f"turn it off: ethtool -K {name} {switches}"
        )
