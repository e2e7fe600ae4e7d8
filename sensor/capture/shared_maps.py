"""The maps that every loaded program uses: counters, flows, and whether any flow was followed.

Runs in the supervisor. The maps outlive a program, which has their file descriptors compiled in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.capture import maps
from sensor.capture.compiler import definitions
from sensor.capture.cpus import possible_cpus
from sensor.capture.flow_table import KernelFlows
from sensor.capture.history import KernelHistory
from sensor.capture.kernel_structs import BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY

_U64 = np.dtype(np.uint64)


class SharedMaps:
    """The maps that stay when the rules change."""

    def __init__(self, flows: int, ifindexes: Sequence[int], history_mib: int = 0) -> None:
        """Create the maps.

        Args:
            flows: Number of flows to remember.
            ifindexes: Indexes of the interfaces that are counted separately.
            history_mib: Memory of the history of each CPU; 0: there is none.

        Raises:
            OSError: The kernel refused a map; ``ENOMEM`` if it has no memory for so many flows.
        """
        self.flows = KernelFlows(flows)
        count = len(ifindexes)
        self.counters_fd = maps.create_array("counters", BPF_MAP_TYPE_PERCPU_ARRAY, abi.COUNTERS, count)
        self.follow_fd = maps.create_array("follow", BPF_MAP_TYPE_ARRAY, _U64, 1)
        self.history = KernelHistory(history_mib) if history_mib else None
        self._follows = False
        self._interfaces = count
        self._ports = np.array(ifindexes, np.uint32)
        self.ports_fd = maps.create_table("ports", self._ports)

    def flags(self) -> list[str]:
        """Return the compiler's flags for a program that uses these maps."""
        history = self.history
        return definitions(
            {
                "HISTORY_CHUNKS": history.chunks if history else 0,
                "HISTORY_CHUNKS_FD": history.chunks_fd if history else 0,
                "HISTORY_HEADS_FD": history.heads_fd if history else 0,
                "COUNTERS_FD": self.counters_fd,
                "FOLLOW_FD": self.follow_fd,
                "PORTS_FD": self.ports_fd,
                "PORTS": self._interfaces,
                "FLOWS_FD": self.flows.fd,
                "FLOW_SETS": self.flows.sets,
                "FLOW_SEEDS": ",".join(f"{seed:#x}ULL" for seed in self.flows.seeds),
            }
        )

    def counters_by_cpu(self) -> NDArray[np.void]:
        """Return the kernel's counters, shape (interfaces, CPUs), with dtype `abi.COUNTERS`."""
        fd, cpus = self.counters_fd, possible_cpus()
        return np.array(
            [maps.element(fd, abi.COUNTERS, cpus, index=index) for index in range(self._interfaces)]
        )

    def set_port(self, place: int, ifindex: int) -> None:
        """Set the index that the interface at a place of ``ifindexes`` has now."""
        self._ports[place] = ifindex
        maps.update(self.ports_fd, np.zeros(1, np.uint32), self._ports)

    def follow(self) -> None:
        """Let the kernel consider frames without payload from now on."""
        if not self._follows:
            maps.update(self.follow_fd, np.zeros(1, np.uint32), np.ones(1, np.uint64))
            self._follows = True

    def fds(self) -> dict[str, int]:
        """Return the file descriptor of each map."""
        return {
            "counters": self.counters_fd,
            "flows": self.flows.fd,
            "follow": self.follow_fd,
            "ports": self.ports_fd,
        }

    def close(self) -> None:
        """Close the maps. The kernel keeps them as long as a program uses them."""
        os.close(self.counters_fd)
        os.close(self.follow_fd)
        os.close(self.ports_fd)
        self.flows.close()
        if self.history:
            self.history.close()
