"""The CPUs on which the interrupts of a NIC's receive queues run. Runs in ``sensor doctor``.

Any user may read them (Documentation/core-api/irq/irq-affinity.rst, ABI/testing/sysfs-kernel-irq).
"""

from __future__ import annotations

import re
from pathlib import Path

from sensor.capture.cpus import parse_cpu_list
from sensor.capture.interface import Interface

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


def _receives(number: int, name: str) -> bool:
    actions = Path(f"/sys/kernel/irq/{number}/actions").read_text().strip().split(",")
    return any(_RECEIVES.search(action) or action == name for action in actions)


def _cpus(number: int) -> list[int]:
    return parse_cpu_list(Path(f"/proc/irq/{number}/effective_affinity_list").read_text())
