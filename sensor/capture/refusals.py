"""What keeps XDP from seeing an interface's frames as they came, and the command that mends it.

Runs in the supervisor, before anything is attached, and in ``sensor doctor``. Limits and habits of drivers
were read in their sources, those of veth also tried; what is not known here, the attempt to attach finds out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

from sensor.capture.interface import Interface, find_peer
from sensor.finding import Finding

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


_GENERIC = "accept the slower --mode generic"


def refusals(interface: Interface, mode: Mode, *, frags: bool = False) -> Iterator[Finding]:
    """Say all that keeps a program from being attached, or from seeing frames as they came.

    Driver, MTU and merged frames matter in native mode only: for generic mode the kernel turns LRO and
    GRO in hardware off by itself, and gives the program frames of any size. Stripped tags matter in both.

    Args:
        interface: To attach to.
        mode: To attach in.
        frags: The program takes frames of several buffers: it was loaded with ``BPF_F_XDP_HAS_FRAGS``.
    """
    if not interface.has_carrier:
        yield Finding(
            level="error",
            check="carrier",
            subject=interface.name,
            what="no carrier",
            why="nothing can be captured",
            advice="plug the cable in or bring it up",
            command=f"ip link set {interface.name} up",
            is_safe=True,
        )
    yield from occupied(interface)
    if mode == "native":
        yield from _merged_frames(interface)
        if interface.nic.native_xdp is False:
            yield _no_native_xdp(interface)
        elif not (frags and interface.nic.xdp_frags):
            yield from _large_mtu(interface)
    yield from _stripped_tags(interface)


def hidden_tags(interface: Interface) -> Iterator[Finding]:
    """Say whose VLAN tags will be missing although nothing can, or need, be done about it."""
    nic = interface.nic
    if nic.fixed.intersection(_stripping(interface)):
        yield Finding(
            level="warning",
            check="tags",
            subject=interface.name,
            what=f"{nic.driver} strips VLAN tags and cannot do otherwise",
            why="evidence will lack them",
        )
    peer = find_peer(interface)
    if peer and "txvlan" in peer.nic.offloads:
        yield Finding(
            level="note",
            check="tags",
            subject=interface.name,
            what=f"VLAN tags that this host itself puts on frames to {peer.name} (VLAN devices, bridges, tc) "
            "are not in the frames",
            why="they are not seen",
            advice="where they matter",
            command=f"ethtool -K {peer.name} txvlan off",
        )


def occupied(interface: Interface) -> Iterator[Finding]:
    """Say that a program is attached already."""
    program = interface.xdp_program_id
    if program is not None:
        yield Finding(
            level="error",
            check="attached",
            subject=interface.name,
            what=f"XDP program {program} is attached already (another sensor?)",
            why="there is no place for another",
            advice="end the process that attached it (bpftool link show), or remove it where there is none",
            command=f"ip link set {interface.name} xdp off",
        )


def _merged_frames(interface: Interface) -> Iterator[Finding]:
    """LRO and GRO in hardware make one frame of several: drivers refuse XDP, or show it what never was."""
    name, nic = interface.name, interface.nic
    for offload in ("lro", "rx-gro-hw"):
        is_fixed = offload in nic.fixed
        ends_by_itself = offload != "lro" and nic.driver in _TURN_GRO_HW_OFF
        if offload not in nic.offloads or (ends_by_itself and not is_fixed):
            continue
        yield Finding(
            level="error",
            check="merging",
            subject=name,
            what=f"{offload} is on{f', and {nic.driver} cannot turn it off' if is_fixed else ''}",
            why="the NIC merges frames before XDP would see them",
            advice=_GENERIC if is_fixed else "turn it off",
            command="" if is_fixed else f"ethtool -K {name} {offload} off",
            is_safe=not is_fixed,
        )


def _no_native_xdp(interface: Interface) -> Finding:
    name, nic = interface.name, interface.nic
    peer = find_peer(interface)
    if peer and peer.nic.transmit_queues > nic.receive_queues:  # the one thing that veth wants
        return Finding(
            level="error",
            check="driver",
            subject=name,
            what=f"its peer {peer.name} sends on {peer.nic.transmit_queues} queues and {name} receives on "
            f"{nic.receive_queues}",
            why="veth has no native XDP",
            advice="use as many",
            command=f"ethtool -L {peer.name} tx {nic.receive_queues}",
        )
    driver = f"the driver {nic.driver}" if nic.driver else "this kind of interface"
    return Finding(
        level="error",
        check="driver",
        subject=name,
        what=f"{driver} has no native XDP",
        why="no program can run in it",
        advice=_GENERIC,
    )


def _large_mtu(interface: Interface) -> Iterator[Finding]:
    driver = interface.nic.driver
    sender = find_peer(interface) if driver == "veth" else interface
    limit = _SINGLE_BUFFER_MTU.get(driver or "")
    if limit and sender and sender.mtu > limit and os.sysconf("SC_PAGE_SIZE") == 4096:
        whose = "MTU" if sender is interface else f"its peer {sender.name} has MTU"
        yield Finding(
            level="error",
            check="mtu",
            subject=interface.name,
            what=f"{whose} {sender.mtu}, and frames above {limit} do not fit into the one buffer "
            f"that {driver} gives XDP",
            why="it refuses the program",
            advice=f"{_GENERIC}, or lower it",
            command=f"ip link set {sender.name} mtu {limit}",
        )


def _stripping(interface: Interface) -> list[str]:
    """Offloads that take VLAN tags off; veth only has them in name."""
    if interface.nic.driver == "veth":
        return []
    return sorted(interface.nic.offloads & {"rxvlan", "rx-vlan-stag-hw-parse"})


def _stripped_tags(interface: Interface) -> Iterator[Finding]:
    name = interface.name
    on = [offload for offload in _stripping(interface) if offload not in interface.nic.fixed]
    if on:
        switches = " ".join(f"{offload} off" for offload in on)
        yield Finding(
            level="error",
            check="tags",
            subject=name,
            what=f"{' and '.join(on)} is on",
            why="the NIC strips VLAN tags and evidence would lack them",
            advice="turn it off",
            command=f"ethtool -K {name} {switches}",
            is_safe=True,
        )
