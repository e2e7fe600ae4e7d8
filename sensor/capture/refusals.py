"""Finds what prevents attaching to an interface or hides parts of its frames, and the commands that fix it.

Runs in the supervisor before it attaches anything, and in ``sensor doctor``. The limits of the drivers are
from their sources; those of veth are also tested. Anything not covered here shows when attaching fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Literal

from sensor.capture.interface import Interface, find_peer
from sensor.finding import Finding
from sensor.model import LinkType

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
"""Largest MTU at which a driver puts every frame into one buffer for XDP, with pages of 4 KiB. For veth it is
the MTU of the peer."""

_DISABLE_GRO_HW = {"bnxt_en", "qede", "virtio_net"}
"""Drivers that turn GRO in hardware off by themselves when a program is attached."""

_USE_GENERIC = "use the slower --mode generic"


def refusals(interface: Interface, mode: Mode, *, frags: bool = False) -> Iterator[Finding]:
    """Find everything that keeps a program from being attached, or from seeing frames unchanged.

    Driver, MTU and merged frames matter in native mode only: in generic mode the kernel itself turns LRO and
    GRO in hardware off, and passes frames of any size. Stripped tags matter in both modes.

    Args:
        interface: Interface to attach to.
        mode: Mode to attach in.
        frags: True if the program was loaded with ``BPF_F_XDP_HAS_FRAGS``, to read frames of several buffers.
    """
    if not interface.has_carrier:
        yield Finding(
            level="error",
            check="carrier",
            subject=interface.name,
            what="no carrier",
            why="nothing can be captured",
            advice="connect the cable, or bring the interface up",
            command=f"ip link set {interface.name} up",
            is_safe=True,
        )
    yield from attached_program(interface)
    if interface.linktype is None:
        yield Finding(
            level="error",
            check="link",
            subject=interface.name,
            what=f"{interface.nic.driver or 'it'} puts a header before packets that is not decoded",
            why="nothing could be matched",
            advice="capture on the port below it, or on one with Ethernet frames",
        )
    if mode == "native":
        yield from _merged_frames(interface)
        if interface.nic.native_xdp is False:
            yield _no_native_xdp(interface)
        elif not (frags and interface.nic.xdp_frags):
            yield from _large_mtu(interface)
    yield from _stripped_tags(interface)


def mixed_link_types(interfaces: Sequence[Interface]) -> Iterator[Finding]:
    """Find interfaces whose frames begin with other headers than those of the first."""
    kinds = {LinkType.ETHERNET: "Ethernet frames", LinkType.RAW: "packets without an Ethernet header"}
    for interface in interfaces[1:]:
        first = interfaces[0]
        if interface.linktype and first.linktype and interface.linktype != first.linktype:
            yield Finding(
                level="error",
                check="link",
                subject=interface.name,
                what=f"has {kinds[interface.linktype]}, but {first.name} has {kinds[first.linktype]}",
                why="one sensor cannot capture on both",
                advice="run a second sensor, with a devid of its own",
            )


def hidden_tags(interface: Interface) -> Iterator[Finding]:
    """Find VLAN tags that evidence will lack, where that is no reason to refuse the interface."""
    nic = interface.nic
    if nic.fixed.intersection(_stripping(interface)):
        yield Finding(
            level="warning",
            check="tags",
            subject=interface.name,
            what=f"{nic.driver} always strips VLAN tags before XDP",
            why="evidence will lack them",
        )
    peer = find_peer(interface)
    if peer and "txvlan" in peer.nic.offloads:
        yield Finding(
            level="note",
            check="tags",
            subject=interface.name,
            what=f"VLAN tags that this host itself adds to frames on {peer.name} (VLAN devices, bridges, tc) "
            "are not part of the frames",
            why="sensor does not see them",
            advice="if they matter, turn that off",
            command=f"ethtool -K {peer.name} txvlan off",
        )


def attached_program(interface: Interface) -> Iterator[Finding]:
    """Find a program that is attached already."""
    program = interface.xdp_program_id
    if program is not None:
        yield Finding(
            level="error",
            check="attached",
            subject=interface.name,
            what=f"XDP program {program} is attached already (another sensor?)",
            why="no other can be attached",
            advice="end the process that attached it (bpftool link show), "
            "or detach the program if there is none",
            command=f"ip link set {interface.name} xdp off",
        )


def _merged_frames(interface: Interface) -> Iterator[Finding]:
    """Find LRO and GRO in hardware: drivers with them refuse XDP, or give it frames merged from several."""
    name, nic = interface.name, interface.nic
    for offload in ("lro", "rx-gro-hw"):
        is_fixed = offload in nic.fixed
        is_automatic = offload != "lro" and nic.driver in _DISABLE_GRO_HW
        if offload not in nic.offloads or (is_automatic and not is_fixed):
            continue
        yield Finding(
            level="error",
            check="merging",
            subject=name,
            what=f"{offload} is on{f', and {nic.driver} cannot turn it off' if is_fixed else ''}",
            why="the NIC merges frames before XDP sees them",
            advice=_USE_GENERIC if is_fixed else "turn it off",
            command="" if is_fixed else f"ethtool -K {name} {offload} off",
            is_safe=not is_fixed,
        )


def _no_native_xdp(interface: Interface) -> Finding:
    name, nic = interface.name, interface.nic
    peer = find_peer(interface)
    if peer and peer.nic.transmit_queues > nic.receive_queues:  # the only condition of veth
        return Finding(
            level="error",
            check="driver",
            subject=name,
            what=f"its peer {peer.name} transmits on {peer.nic.transmit_queues} queues, "
            f"but {name} receives on {nic.receive_queues}",
            why="veth does not allow native XDP",
            advice="use no more for transmission",
            command=f"ethtool -L {peer.name} tx {nic.receive_queues}",
        )
    driver = f"the driver {nic.driver}" if nic.driver else "this kind of interface"
    return Finding(
        level="error",
        check="driver",
        subject=name,
        what=f"{driver} has no native XDP",
        why="the program cannot run in native mode",
        advice=_USE_GENERIC,
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
            what=f"{whose} {sender.mtu}, and frames above {limit} do not fit into the single buffer "
            f"that {driver} gives XDP",
            why="the driver refuses the program",
            advice=f"{_USE_GENERIC}, or lower the MTU",
            command=f"ip link set {sender.name} mtu {limit}",
        )


def _stripping(interface: Interface) -> list[str]:
    """Return the active offloads that strip VLAN tags. On veth they have no effect."""
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
            why="the NIC strips VLAN tags before XDP, and evidence would lack them",
            advice="turn it off",
            command=f"ethtool -K {name} {switches}",
            is_safe=True,
        )
