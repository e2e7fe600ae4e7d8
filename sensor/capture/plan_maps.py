"""The tables of a plan, in the maps of one loaded program. Runs in the supervisor.

Each program has tables of its own. They are filled before the program is compiled and never change, so a
program never meets the tables of other rules, or half of its own.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.capture import maps
from sensor.capture.compiler import definitions


class FirstStates(NamedTuple):
    """The states in which decisions about payloads begin (``bpf/abi.h``)."""

    tcp: int
    """For TCP, if no rule names one of the ports."""
    udp: int
    """For UDP, likewise."""
    other: int
    """For all other protocols."""
    http: int
    """For the question if a payload looks like HTTP."""


class KernelPlan(NamedTuple):
    """The tables by which the kernel judges payloads (``bpf/plan.h``): what the rules ask it to pass."""

    first: FirstStates
    ports: NDArray[np.uint32]
    """The first state for each TCP port and each UDP port; shape (2, 65536)."""
    rows: NDArray[np.uint32]
    """States, in rows."""
    prefixes: NDArray[np.void]
    """`abi.PLAN_PREFIX`."""
    merged: int = 0
    """Number of prefixes that were too many, so that others fit their payloads, and more."""

    @property
    def bytes(self) -> int:
        """The size of the tables."""
        return sum(table.nbytes for table in (self.ports, self.rows, self.prefixes))


class PlanMaps:
    """The maps of a plan."""

    def __init__(self, plan: KernelPlan) -> None:
        """Create and fill the maps.

        Raises:
            OSError: The kernel refused a map.
        """
        rows, prefixes = _padded(plan.rows), _padded(plan.prefixes)
        self._values: dict[str, object] = {"PLAN_ROWS": len(rows), "PLAN_PREFIXES": len(prefixes)} | {
            f"{name.upper()}_STATE": f"{state:#x}ULL" for name, state in plan.first._asdict().items()
        }
        self._fds: dict[str, int] = {}
        try:
            for name, table in (("ports", plan.ports), ("rows", rows), ("prefixes", prefixes)):
                self._fds[f"plan_{name}"] = maps.create_table(f"plan_{name}", table)
        except OSError:
            self.close()
            raise

    def flags(self) -> list[str]:
        """Return the compiler's flags for the program that uses these maps."""
        return definitions(self._values | {f"{name.upper()}_FD": fd for name, fd in self._fds.items()})

    def fds(self) -> dict[str, int]:
        """Return the file descriptor of each map."""
        return dict(self._fds)

    def close(self) -> None:
        """Close the maps. The kernel keeps them as long as the program is loaded."""
        while self._fds:
            os.close(self._fds.popitem()[1])


def _padded(table: NDArray[Any]) -> NDArray[Any]:
    """Return the table, with zeroes up to a power of two: the kernel clamps indexes with a mask."""
    padded = np.zeros(1 << max(len(table) - 1, 1).bit_length(), table.dtype)
    padded[: len(table)] = table
    return padded
