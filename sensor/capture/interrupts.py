"""On which CPUs the interrupts of a NIC's receive queues run; read in ``sensor doctor``.

As Documentation/core-api/irq/irq-affinity.rst and ABI/testing/sysfs-kernel-irq describe it, by any user.
"""

from __future__ import annotations

import re
from pathlib import Path

from sensor.capture.cpus import parse_cpu_list
from sensor.capture.interface import Interface

_RECEIVES = re.compile(r"rx|input|comp\d", re.IGNORECASE)
"""In names such as ``ixgbe``'s ``eth1-TxRx-0``, ``virtio2-input.0``, ``mlx5_comp0@pci:0000:01:00.0``."""


def receive_interrupts(interface: Interface) -> dict[int, list[int]]:
    """Return the CPUs that each of the receive interrupts runs on, by its number.

    Empty where there are none, or the driver gives them names that are not known here.
    """
    device = interface.nic.device
    if device is None:
        return {}
    device = device.resolve()
    places = (device, device.parent)  # a virtio device is below the PCI device with its interrupts
    numbers = [int(file.name) for place in places for file in (place / "msi_irqs").glob("*")]
    return {number: _cpus(number) for number in sorted(numbers) if _receives(number, interface.name)}


def _receives(number: int, name: str) -> bool:
    actions = Path(f"/sys/kernel/irq/{number}/actions").read_text().strip().split(",")
    return any(_RECEIVES.search(action) or action == name for action in actions)


def _cpus(number: int) -> list[int]:
    return parse_cpu_list(Path(f"/proc/irq/{number}/effective_affinity_list").read_text())
