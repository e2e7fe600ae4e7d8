"""A mirror port: what keeps a program off it, and what costs it frames."""

from __future__ import annotations

from collections.abc import Iterator

from pyroute2 import IPRoute

from sensor.capture.attachment import needs_frags
from sensor.capture.cpus import online_cpus
from sensor.capture.interface import Interface, find_interface
from sensor.capture.interrupts import receive_interrupts
from sensor.capture.refusals import hidden_tags, attached_program, refusals
from sensor.config.settings import Settings
from sensor.doctor.running import has_attached
from sensor.errors import InterfaceError
from sensor.finding import Finding

RING_FRAMES = 2048
"""What a queue should hold, where it can: at 1 Mfps, 2 ms in which its CPU may be elsewhere."""

_BEHIND_A_SWITCH = {
    "ena",
    "gve",
    "hv_netvsc",
    "iavf",
    "igbvf",
    "ixgbevf",
    "mana",
    "virtio_net",
    "vmxnet3",
}
"""Drivers of virtual machines and SR-IOV functions: whose frames come is decided outside."""


def port_findings(settings: Settings, running: int | None) -> Iterator[Finding]:
    """Look at every interface of the settings; ``running`` is the sensor that may have some of them."""
    names = tuple(dict.fromkeys(settings.interface))
    if not names:
        yield Finding(
            level="note",
            check="port",
            what="no port was named",
            why="none was looked at",
            advice="name it",
            command="sensor doctor eth1",
        )
    interfaces = []
    for name in names:
        try:
            interfaces.append(find_interface(name))
        except InterfaceError as error:
            yield Finding(level="error", check="port", what=str(error))
    frags = any(needs_frags(interface.name, settings.mode) for interface in interfaces)
    for interface in interfaces:
        yield from _one(interface, settings, running, frags=frags)


def _one(interface: Interface, settings: Settings, running: int | None, *, frags: bool) -> Iterator[Finding]:
    yield _device(interface)
    program = interface.xdp_program_id
    is_ours = bool(running and program and has_attached(running, program))
    in_the_way = list(refusals(interface, settings.mode, frags=frags))
    if is_ours:
        in_the_way = [one for one in in_the_way if one not in attached_program(interface)]
        yield Finding(
            level="ok",
            check="attached",
            subject=interface.name,
            what=f"the running sensor (process {running}) captures here",
        )
    yield from in_the_way
    yield from hidden_tags(interface)
    yield from speed_findings(interface, receive_interrupts(interface), len(online_cpus()))
    yield from _generic(interface, settings)
    yield from filter_findings(interface)
    yield from _own_traffic(interface, settings)


def _device(interface: Interface) -> Finding:
    nic = interface.nic
    queues = "1 receive queue" if nic.receive_queues == 1 else f"{nic.receive_queues} receive queues"
    xdp = {
        True: "native XDP",
        False: "generic XDP alone",
        None: "whether XDP is native is found out by trying",
    }
    buffers = ", frames in several buffers" if nic.xdp_frags else ""
    return Finding(
        level="ok",
        check="port",
        subject=interface.name,
        what=f"{nic.driver or 'no driver'}, {xdp[nic.native_xdp]}{buffers}, MTU {interface.mtu}, {queues}",
    )


def speed_findings(interface: Interface, interrupts: dict[int, list[int]], cpus: int) -> Iterator[Finding]:
    """Say what keeps the work from being spread, or bursts from being held.

    Args:
        interface: The port.
        interrupts: CPUs of its receive interrupts, by number.
        cpus: How many this host has.
    """
    name, nic = interface.name, interface.nic
    if cpus > 1 and nic.receive_queues == 1:
        can_have = min(nic.receive_queues_max, cpus)
        yield Finding(
            level="warning" if can_have > 1 else "note",
            check="queues",
            subject=name,
            what=f"one receive queue, and this host has {cpus} CPUs",
            why="one of them has to take all frames",
            advice="use more" if can_have > 1 else "",
            command=f"ethtool -L {name} {nic.channels} {can_have}" if can_have > 1 else "",
        )
    used = {cpu for of_one in interrupts.values() for cpu in of_one}
    if len(interrupts) > 1 and len(used) == 1 and cpus > 1:
        yield Finding(
            level="warning",
            check="interrupts",
            subject=name,
            what=f"all {len(interrupts)} receive interrupts run on CPU {min(used)}",
            why="it has to take all frames",
            advice="spread them, by hand in /proc/irq/*/smp_affinity_list, or",
            command="systemctl enable --now irqbalance",
        )
    elif used:
        yield Finding(
            level="ok",
            check="interrupts",
            subject=name,
            what=f"receive interrupts run on CPU {', '.join(map(str, sorted(used)))}",
        )
    if nic.ring_frames < min(RING_FRAMES, nic.ring_frames_max):
        yield Finding(
            level="warning",
            check="ring",
            subject=name,
            what=f"a receive queue holds {nic.ring_frames} frames, and could hold {nic.ring_frames_max}",
            why="the NIC drops more of a burst than it has to",
            advice="make it larger",
            command=f"ethtool -G {name} rx {min(nic.ring_frames_max, 2 * RING_FRAMES)}",
        )


def _generic(interface: Interface, settings: Settings) -> Iterator[Finding]:
    able = interface.nic.native_xdp and not any(
        one.check in ("mtu", "merging", "driver") for one in refusals(interface, "native", frags=True)
    )
    if settings.mode == "generic" and able:
        yield Finding(
            level="note",
            check="mode",
            subject=interface.name,
            what=f"generic mode, and {interface.nic.driver} has native XDP",
            why="every frame costs more than it has to",
            advice="use --mode native",
        )


def filter_findings(interface: Interface) -> Iterator[Finding]:
    """Say where taking all frames, as sensor asks the NIC for, is not for this host to decide."""
    if interface.nic.driver in _BEHIND_A_SWITCH:
        yield Finding(
            level="note",
            check="filter",
            subject=interface.name,
            what=f"{interface.nic.driver} is a port of a virtual switch or a virtual function",
            why="those outside decide whether frames for others come: mirroring, promiscuous mode, trust on",
        )


def _own_traffic(interface: Interface, settings: Settings) -> Iterator[Finding]:
    if settings.action != "drop":
        return
    with IPRoute() as netlink:
        addresses = [one.get_attr("IFA_ADDRESS") for one in netlink.get_addr(index=interface.index)]
    if addresses:
        yield Finding(
            level="warning",
            check="own-traffic",
            subject=interface.name,
            what=f"has addresses ({', '.join(addresses)}), and --action drop takes every frame away",
            why="the host cannot be reached there while sensor runs",
            advice="use --action pass, or a port that is a mirror alone",
        )
