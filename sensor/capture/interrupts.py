"""The CPUs on which a NIC's receive queues run. Runs in the supervisor and in ``sensor doctor``.

Any user may read them (Documentation/core-api/irq/irq-affinity.rst, ABI/testing/sysfs-kernel-irq).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from sensor.capture.cpus import online_cpus, parse_cpu_list, parse_cpu_mask
from sensor.capture.interface import Interface

_IRQBALANCE = Path("/run/irqbalance")
"""Directory of the socket of irqbalance, while it runs."""
_RECEIVES = re.compile(r"rx|input|comp\d", re.IGNORECASE)
"""Matches names of receive interrupts: ``eth1-TxRx-0`` (ixgbe), ``virtio2-input.0``,
``mlx5_comp0@pci:0000:01:00.0``."""


def receive_interrupts(interface: Interface) -> dict[int, list[int]]:
    """Return the CPUs of each receive interrupt, by the number of the interrupt.

    Empty if there are none, or the driver gives them unknown names.
    """
    device = interface.nic.device
    if device is None:
        return {}
    device = device.resolve()
    directories = (device, device.parent)  # the parent of a virtio device, a PCI device, has its interrupts
    numbers = [int(file.name) for directory in directories for file in (directory / "msi_irqs").glob("*")]
    return {number: _cpus(number) for number in sorted(numbers) if _receives(number, interface.name)}


class ReceiveCpus:
    """The CPUs on which frames of some interfaces may arrive: where their interrupts and RPS allow it.

    It is any CPU for a virtual interface, for a NIC whose interrupts are unknown or whose queues threads poll
    (Documentation/networking/scaling.rst, napi.rst), and where irqbalance may move interrupts.
    """

    def __init__(self, interfaces: Iterable[Interface]) -> None:
        """Find the interrupts; their CPUs are read at each call of `now`."""
        self._ports = [(receive_interrupts(one), _sysfs(one)) for one in interfaces]

    def now(self) -> list[int]:
        """Return the CPUs that are online and of which this is true."""
        online = online_cpus()
        if _IRQBALANCE.exists():
            return online
        allowed: set[int] = set()
        try:
            for interrupts, sysfs in self._ports:
                if sysfs is None or not interrupts or (sysfs / "threaded").read_text().strip() != "0":
                    return online
                for number in interrupts:
                    allowed.update(parse_cpu_list(Path(f"/proc/irq/{number}/smp_affinity_list").read_text()))
                for mask in sysfs.glob("queues/rx-*/rps_cpus"):
                    allowed.update(parse_cpu_mask(mask.read_text()))
        except OSError:  # it is another device by now
            return online
        return [cpu for cpu in online if cpu in allowed] or online


def _sysfs(interface: Interface) -> Path | None:
    """Return the directory of an interface in sysfs; None for a virtual one."""
    device = interface.nic.device
    return device / "net" / interface.name if device else None


def _receives(number: int, name: str) -> bool:
    actions = Path(f"/sys/kernel/irq/{number}/actions").read_text().strip().split(",")
    return any(_RECEIVES.search(action) or action == name for action in actions)


def _cpus(number: int) -> list[int]:
    return parse_cpu_list(Path(f"/proc/irq/{number}/effective_affinity_list").read_text())
