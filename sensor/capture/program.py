"""The kernel program: compile it, load it with the plan of the rules, fill its maps, read its counters.

Runs in the supervisor. When the rules change, the program is compiled and loaded again. Counters and flows
are in maps that outlive it (`SharedMaps`).
"""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.capture import maps
from sensor.capture.compiler import compile_program, definitions, free, load_error
from sensor.capture.flow_table import FlowKey, KernelFlow
from sensor.capture.history import KernelHistory
from sensor.capture.kernel_structs import BPF_F_XDP_HAS_FRAGS
from sensor.capture.plan_maps import KernelPlan, PlanMaps
from sensor.capture.ring import PerfRing
from sensor.capture.shared_maps import SharedMaps
from sensor.capture.syscalls import xdp_load
from sensor.errors import KernelError, PrivilegeError
from sensor.process.capabilities import NEEDED, missing_capabilities

Action = Literal["pass", "drop"]
IpNetwork = IPv4Network | IPv6Network

CAPLEN_MAX = 65472
"""Largest number of bytes kept of a frame: 16 bits hold the size of a perf record, which includes the frame,
its metadata and headers (perf_event.h)."""

_CLOCK_MONOTONIC_COARSE = 6


def check_privileges() -> None:
    """Check that this process may load and attach programs.

    Raises:
        PrivilegeError: A capability is missing.
    """
    if missing_capabilities():
        *others, last = NEEDED
        raise PrivilegeError(f"capturing needs root, or {', '.join(others)} and {last}: run this with sudo")


@dataclass(frozen=True, kw_only=True)
class ProgramOptions:
    """Everything that is compiled in. It stays when the rules change."""

    snaplen: int = CAPLEN_MAX
    """Largest number of bytes kept of a frame."""
    action: Action = "pass"
    flows: int = 1 << 20
    """Number of flows to remember, IPv4 and IPv6 together."""
    depth: int | None = None
    """Number of packets with payload that are candidates, per flow; None: all."""
    http_at_any_depth: bool = True
    """True if payloads that look like HTTP are candidates beyond ``depth``."""
    longest: int | None = None
    """Largest payload that is a candidate, in bytes; None: any."""
    flow_has_tos: bool = False
    """True if the type of service is part of a flow's key."""
    idle_s: float = 30
    """A flow is over after this many seconds without a packet."""
    life_s: float = 120
    """A flow is over when it is this many seconds old."""
    include: tuple[IpNetwork, ...] = ()
    exclude: tuple[IpNetwork, ...] = ()
    """Networks whose frames are candidates, and networks whose frames are not. The longest matching prefix
    of an address wins."""
    multi_buffer: bool = False
    """True if frames may come in several buffers (Linux 5.18 and newer)."""
    history_mib: int = 0
    """Memory of the history of each CPU; 0: there is none."""
    history_flow_kib: int = 20
    """The history's cut-off: KiB of a flow after which its frames are not remembered."""
    raw_ip: bool = False
    """True if frames have no link header, and begin with an IP header."""
    ifindexes: tuple[int, ...] = (0,)
    """Interfaces that are counted separately. Frames of any other are counted with the first."""

    def flags(self) -> list[str]:
        """Return the compiler's flags for these options."""
        values = {
            "SNAPLEN": min(self.snaplen, CAPLEN_MAX),
            "ACTION": f"XDP_{self.action.upper()}",
            "MULTI_BUFFER": int(self.multi_buffer),
            "DEPTH": self.depth or 0,
            "HTTP_AT_ANY_DEPTH": int(self.http_at_any_depth),
            "LONGEST": self.longest or 0,
            "FLOW_HAS_TOS": int(self.flow_has_tos),
            "IDLE_JIFFIES": f"{_jiffies(self.idle_s)}LL",
            "LIFE_JIFFIES": f"{_jiffies(self.life_s)}LL",
            "RAW_IP": int(self.raw_ip),
            "HISTORY_FLOW_BYTES": self.history_flow_kib << 10,
            "IFINDEXES": ",".join(map(str, self.ifindexes)),
            "NETWORKS": len(self.include) + len(self.exclude) + 1 if self.include or self.exclude else 0,
        }
        return definitions(values)


class LoadedProgram:
    """The program, loaded for one plan, with the maps that belong to it alone."""

    def __init__(self, bpf: Any, plan_maps: PlanMaps, flags: int) -> None:
        self.bpf = bpf
        """BCC's object, with the maps that it has created."""
        self.plan_maps = plan_maps
        self.fd = xdp_load("prefilter", bpf.dump_func(b"prefilter"), flags)

    def map_fd(self, name: str) -> int:
        """Return the file descriptor of a map that BCC has created."""
        return int(self.bpf[name.encode()].map_fd)

    def close(self) -> None:
        """Close program and maps. The kernel keeps a program that is still attached."""
        os.close(self.fd)
        self.plan_maps.close()
        free(self.bpf)


class Program:
    """The prefilter: the loaded program in use, and the maps that all loaded programs share."""

    def __init__(self, plan: KernelPlan, options: ProgramOptions = ProgramOptions()) -> None:
        """Compile, load, and fill the maps. Nothing is attached yet.

        Raises:
            KernelError: BCC is not installed, or the kernel refused the program or a map.
        """
        with suppress(ValueError, OSError):  # kernels before 5.11 charge maps to this limit
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self._options = options
        self._rings: list[PerfRing] = []
        try:
            self._shared = SharedMaps(options.flows, options.ifindexes, options.history_mib)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise load_error(error) from error
            history = f" and a history of {options.history_mib} MiB" if options.history_mib else ""
            lower = "flows or history_mib" if options.history_mib else "flows"
            raise KernelError(
                f"the kernel has no memory for {options.flows} flows{history}; lower the setting {lower}"
            ) from error
        self._loaded = self.compile(plan)

    @property
    def loaded(self) -> LoadedProgram:
        """The loaded program in use."""
        return self._loaded

    @property
    def fd(self) -> int:
        """File descriptor of the loaded program in use."""
        return self._loaded.fd

    @property
    def counters_fd(self) -> int:
        """File descriptor of the counters: a forked child can go on reading them with it."""
        return self._shared.counters_fd

    def compile(self, plan: KernelPlan) -> LoadedProgram:
        """Compile and load the program with another plan. It is not used yet, see `use`.

        This takes some tenths of a second, during which other threads run.

        Raises:
            KernelError: The kernel refused it.
        """
        with ExitStack() as undo:
            try:
                loaded = self._load(plan, undo)
                self._fill_networks(loaded)
            except OSError as error:
                reason = f"{error.strerror}: {error.filename}" if error.filename else error
                raise load_error(reason) from error
            for ring in self._rings:
                _connect(loaded, ring)
            undo.pop_all()
        return loaded

    def use(self, loaded: LoadedProgram) -> None:
        """Replace the program in use, and close the old one. Every interface must run the new one already."""
        self._loaded.close()
        self._loaded = loaded

    def connect(self, rings: Iterable[PerfRing]) -> None:
        """Let the program submit frames to these rings, each on its own CPU.

        Raises:
            KernelError: The kernel refused.
        """
        for ring in rings:
            self._rings.append(ring)
            _connect(self._loaded, ring)

    def reconnect(self, ring: PerfRing, loaded: LoadedProgram | None = None) -> None:
        """Let the program in use, or another one, fill a ring by its present perf event.

        Raises:
            KernelError: The kernel refused.
        """
        _connect(loaded or self._loaded, ring)

    def counters(self) -> dict[abi.Counter, tuple[int, int]]:
        """Return frames and bytes of every bucket, summed over interfaces and CPUs."""
        buckets = self.counters_by_cpu()["buckets"]
        frames, size = (buckets[name].sum(axis=(0, 1)).tolist() for name in ("frames", "bytes"))
        return {counter: (frames[counter], size[counter]) for counter in abi.Counter}

    def losses(self) -> dict[abi.Loss, int]:
        """Return the frames that were not submitted, by cause, summed over interfaces and CPUs."""
        losses = self.counters_by_cpu()["losses"].sum(axis=(0, 1)).tolist()
        return {loss: losses[loss] for loss in abi.Loss}

    @property
    def history(self) -> KernelHistory | None:
        """The kernel's memory of recent frames; None if there is none."""
        return self._shared.history

    @property
    def history_flow_bytes(self) -> int:
        """The history's cut-off."""
        return self._options.history_flow_kib << 10

    def set_port(self, place: int, ifindex: int) -> None:
        """Set the index that the interface at a place of `ProgramOptions.ifindexes` has now."""
        self._shared.set_port(place, ifindex)

    def counters_by_cpu(self) -> NDArray[np.void]:
        """Return the kernel's counters, shape (interfaces, CPUs), with dtype `abi.COUNTERS`."""
        return self._shared.counters_by_cpu()

    def flow(self, key: FlowKey) -> KernelFlow | None:
        """Return what the kernel remembers of a flow, or None (see `flow_key`)."""
        return self._shared.flows.find(key)

    def flow_hash(self, key: FlowKey) -> int:
        """Return the kernel's hash of a flow's key, 32 bits."""
        return self._shared.flows.hash(key)

    def set_verdict(self, key: FlowKey, verdict: abi.Verdict, *, frames: int = 0, until_ns: int = 0) -> bool:
        """Set the verdict on a flow, see `KernelFlows.set_verdict`."""
        remembered = self._shared.flows.set_verdict(key, verdict, frames=frames, until_ns=until_ns)
        if remembered and verdict == abi.Verdict.FOLLOW:
            self._shared.follow()
        return remembered

    def memory_bytes(self) -> dict[str, int]:
        """Return the memory of each map."""
        own = {name: self._loaded.map_fd(name) for name in ("frames", "works")}
        fds = self._shared.fds() | self._loaded.plan_maps.fds() | own
        history = {"history": self._shared.history.memory_bytes()} if self._shared.history else {}
        return {name: maps.memory_bytes(fd) for name, fd in fds.items()} | history

    def close(self) -> None:
        """Close program and maps. The kernel keeps them as long as an interface uses them."""
        self._loaded.close()
        self._shared.close()

    def _load(self, plan: KernelPlan, undo: ExitStack) -> LoadedProgram:
        """Compile and load the program for a plan; ``undo`` closes what was opened."""
        plan_maps = PlanMaps(plan)
        undo.callback(plan_maps.close)
        bpf = compile_program([*self._options.flags(), *self._shared.flags(), *plan_maps.flags()])
        undo.callback(free, bpf)
        flags = BPF_F_XDP_HAS_FRAGS if self._options.multi_buffer else 0
        loaded = LoadedProgram(bpf, plan_maps, flags)
        undo.callback(os.close, loaded.fd)
        return loaded

    def _fill_networks(self, loaded: LoadedProgram) -> None:
        options = self._options
        if not options.include and not options.exclude:
            return
        entries: dict[IpNetwork, abi.Network] = {}
        if options.include:
            everywhere: tuple[IpNetwork, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
            entries.update(dict.fromkeys(everywhere, abi.Network.OUTSIDE))
        entries.update(dict.fromkeys(options.include, abi.Network.INCLUDED))
        entries.update(dict.fromkeys(options.exclude, abi.Network.EXCLUDED))
        for network, meaning in entries.items():
            fd = loaded.map_fd(f"networks{network.version}")
            maps.update(fd, _network_key(network), np.array([meaning], np.uint32))


def _connect(loaded: LoadedProgram, ring: PerfRing) -> None:
    key, value = np.array([ring.cpu], np.uint32), np.array([ring.event_fd], np.uint32)
    try:
        maps.update(loaded.map_fd("frames"), key, value)
    except OSError as error:
        raise KernelError(
            f"CPU {ring.cpu}: the perf ring could not be connected: {error.strerror}"
        ) from error


def _network_key(network: IpNetwork) -> NDArray[np.void]:
    if network.version == 4:
        return np.array([(network.prefixlen, int(network.network_address))], abi.NETWORK4)
    return np.array([(network.prefixlen, tuple(network.network_address.packed))], abi.NETWORK6)


def _jiffies(seconds: float) -> int:
    """Return a duration in jiffies, the steps of the kernel's coarse clock."""
    return round(seconds / time.clock_getres(_CLOCK_MONOTONIC_COARSE))
