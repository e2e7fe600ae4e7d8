"""Checks of an interface: what prevents capturing on it, and what costs frames."""

from __future__ import annotations

from collections.abc import Iterator

from pyroute2 import IPRoute

from sensor.capture.attachment import needs_frags
from sensor.capture.cpus import online_cpus
from sensor.capture.interface import Interface, find_interface
from sensor.capture.interrupts import receive_interrupts
from sensor.capture.refusals import attached_program, hidden_tags, mixed_link_types, refusals
from sensor.config.settings import Settings
from sensor.doctor.running import has_attached
from sensor.errors import InterfaceError
from sensor.finding import Finding
from sensor.text import count_of

RING_FRAMES = 2048
"""Frames that a receive queue should hold: enough for 2 ms at a million frames per second."""

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
"""Drivers of virtual machines and SR-IOV functions: something outside decides which frames arrive."""


def port_findings(settings: Settings, running: int | None) -> Iterator[Finding]:
    """Check every interface in the settings; ``running`` is the process of the running sensor, if any."""
    names = tuple(dict.fromkeys(settings.interface))
    if not names:
        yield Finding(
            level="note",
            check="port",
            what="no interface was named",
            why="none was checked",
            advice="name the mirror port",
            command="sensor doctor eth1",
        )
    interfaces = []
    for name in names:
        try:
            interfaces.append(find_interface(name))
        except InterfaceError as error:
            yield Finding(level="error", check="port", what=str(error))
    yield from mixed_link_types(interfaces)
    frags = any(needs_frags(interface.name, settings.mode) for interface in interfaces)
    for interface in interfaces:
        yield from _interface_findings(interface, settings, running, frags=frags)


def _interface_findings(
    interface: Interface, settings: Settings, running: int | None, *, frags: bool
) -> Iterator[Finding]:
    yield _device(interface)
    program = interface.xdp_program_id
    is_ours = bool(running and program and has_attached(running, program))
    found = list(refusals(interface, settings.mode, frags=frags))
    if is_ours:
        found = [one for one in found if one not in attached_program(interface)]
        yield Finding(
            level="ok",
            check="attached",
            subject=interface.name,
            what=f"the running sensor (process {running}) captures here",
        )
    yield from found
    yield from hidden_tags(interface)
    yield from speed_findings(interface, receive_interrupts(interface), len(online_cpus()))
    yield from _generic(interface, settings)
    yield from filter_findings(interface)
    yield from _own_traffic(interface, settings)


def _device(interface: Interface) -> Finding:
    nic = interface.nic
    queues = count_of(nic.receive_queues, "receive queue")
    xdp = {
        True: "native XDP",
        False: "generic XDP only",
        None: "native XDP unknown until tried",
    }
    buffers = ", frames in several buffers" if nic.xdp_frags else ""
    return Finding(
        level="ok",
        check="port",
        subject=interface.name,
        what=f"{nic.driver or 'no driver'}, {xdp[nic.native_xdp]}{buffers}, MTU {interface.mtu}, {queues}",
    )


def speed_findings(interface: Interface, interrupts: dict[int, list[int]], cpus: int) -> Iterator[Finding]:
    """Yield what keeps the load on one CPU, or makes the NIC drop bursts.

    Args:
        interface: The interface.
        interrupts: CPUs of its receive interrupts, by interrupt number.
        cpus: Number of CPUs of this host.
    """
    name, nic = interface.name, interface.nic
    if cpus > 1 and nic.receive_queues == 1:
        can_have = min(nic.receive_queues_max, cpus)
        yield Finding(
            level="warning" if can_have > 1 else "note",
            check="queues",
            subject=name,
            what=f"one receive queue, and this host has {cpus} CPUs",
            why="one CPU handles all frames",
            advice="use more queues" if can_have > 1 else "",
            command=f"ethtool -L {name} {nic.channels} {can_have}" if can_have > 1 else "",
        )
    used = {cpu for of_one in interrupts.values() for cpu in of_one}
    if len(interrupts) > 1 and len(used) == 1 and cpus > 1:
        yield Finding(
            level="warning",
            check="interrupts",
            subject=name,
            what=f"all {len(interrupts)} receive interrupts run on CPU {min(used)}",
            why="this CPU handles all frames",
            advice="spread them over the CPUs, in /proc/irq/*/smp_affinity_list or with",
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
            what=f"a receive queue holds {nic.ring_frames} frames, but could hold {nic.ring_frames_max}",
            why="the NIC drops more frames of a burst than necessary",
            advice="enlarge the queues",
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
            what=f"the mode is generic, but {interface.nic.driver} supports native XDP",
            why="every frame costs more than necessary",
            advice="use --mode native",
        )


def filter_findings(interface: Interface) -> Iterator[Finding]:
    """Yield a note if this host cannot decide which frames reach the interface."""
    if interface.nic.driver in _BEHIND_A_SWITCH:
        yield Finding(
            level="note",
            check="filter",
            subject=interface.name,
            what=f"{interface.nic.driver} is a port of a virtual switch or a virtual function",
            why="frames for other hosts need port mirroring, promiscuous mode or trust on outside",
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
            what=f"has addresses ({', '.join(addresses)}), and --action drop drops every frame",
            why="this host cannot be reached there while sensor runs",
            advice="use --action pass, or a mirror port without addresses",
        )
