"""The kernel program: compile for the rules, load, fill its maps, count; the only importer of BCC.

Runs in the supervisor. The program is compiled anew when the rules change; counters and flows
stand in maps that outlive it, which its code names by their file descriptors.
"""

from __future__ import annotations

import atexit
import errno
import os
import resource
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.capture import maps
from sensor.capture.flow_table import FlowKey, KernelFlow, KernelFlows
from sensor.capture.ring import PerfRing
from sensor.capture.syscalls import (
    BPF_F_XDP_HAS_FRAGS,
    BPF_MAP_TYPE_ARRAY,
    BPF_MAP_TYPE_PERCPU_ARRAY,
    xdp_load,
)
from sensor.errors import KernelError, PrivilegeError
from sensor.process.capabilities import NEEDED, missing_capabilities

Action = Literal["pass", "drop"]
IpNetwork = IPv4Network | IPv6Network

CAPLEN_MAX = 65472
"""A perf record counts its size in 16 bits: frame, metadata and headers together (perf_event.h)."""

_PACKAGED = Path(__file__).parents[1] / "_bpf"
_SOURCE = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "bpf"
_CLOCK_MONOTONIC_COARSE = 6
_U64 = np.dtype(np.uint64)


def check_privileges() -> None:
    """Check for what loading and attaching needs, before anything is touched.

    Raises:
        PrivilegeError: One of `missing_capabilities` is.
    """
    if missing_capabilities():
        *others, last = NEEDED
        raise PrivilegeError(f"capturing needs root, or {', '.join(others)} and {last}: run this with sudo")


class KernelPlan(NamedTuple):
    """What the rules ask the kernel to let through."""

    code: str
    """C: ``judge_by_rules()`` and ``looks_like_http()``, as `sensor.rules.prefilter.emit` writes them."""
    port_classes: NDArray[np.uint16]
    """The class of each port that ``judge_by_rules()`` is told, shape (65536,)."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything else that is compiled in; it stays when the rules change."""

    snaplen: int = CAPLEN_MAX
    """Most bytes kept of a frame."""
    action: Action = "pass"
    flows: int = 1 << 20
    """Flows that are remembered, of IPv4 and IPv6 together."""
    depth: int | None = None
    """Packets with payload of a flow that are candidates."""
    http_at_any_depth: bool = True
    longest: int | None = None
    """Longest payload that is a candidate, bytes."""
    flow_has_tos: bool = False
    idle_s: float = 30
    life_s: float = 120
    include: tuple[IpNetwork, ...] = ()
    exclude: tuple[IpNetwork, ...] = ()
    """Networks whose frames are candidates or not; the longest match of an address counts."""
    multi_buffer: bool = False
    """Whether frames may come in several buffers (Linux 5.18 and newer)."""
    ifindexes: tuple[int, ...] = (0,)
    """Interfaces whose frames are counted apart; those of others count with the first one's."""

    def flags(self) -> list[str]:
        """Return the compiler's flags for it."""
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
            "IFINDEXES": ",".join(map(str, self.ifindexes)),
            "NETWORKS": len(self.include) + len(self.exclude) + 1 if self.include or self.exclude else 0,
        }
        return _definitions(values)


class Generation:
    """The program compiled and loaded for one plan, with the maps that are its own."""

    def __init__(self, bpf: Any, flags: int) -> None:
        self.bpf = bpf
        """BCC's own object, with its tables."""
        self.fd = xdp_load("prefilter", bpf.dump_func(b"prefilter"), flags)

    def map_fd(self, name: str) -> int:
        """Return the file descriptor of one of its maps."""
        return int(self.bpf[name.encode()].map_fd)

    def close(self) -> None:
        """Free it; the kernel keeps what an interface still runs."""
        os.close(self.fd)
        _free(self.bpf)


class SharedMaps:
    """What outlives a generation: counters, flows, and until when any flow is followed."""

    def __init__(self, flows: int, interfaces: int) -> None:
        self.flows = KernelFlows(flows)
        self.counters_fd = maps.create_array("counters", BPF_MAP_TYPE_PERCPU_ARRAY, abi.COUNTERS, interfaces)
        self.follow_fd = maps.create_array("follow", BPF_MAP_TYPE_ARRAY, _U64, 1)

    def flags(self) -> list[str]:
        """Return the compiler's flags for it."""
        return _definitions(
            {
                "COUNTERS_FD": self.counters_fd,
                "FOLLOW_FD": self.follow_fd,
                "FLOWS_FD": self.flows.fd,
                "FLOW_SETS": self.flows.sets,
                "FLOW_SEEDS": ",".join(f"{seed:#x}ULL" for seed in self.flows.seeds),
            }
        )

    def follow(self, until_ns: int) -> None:
        """Let the kernel look at frames without payload, too, until a monotonic time at least."""
        before = maps.element(self.follow_fd, _U64)
        maps.update(self.follow_fd, np.zeros(1, np.uint32), np.maximum(before, np.uint64(until_ns)))

    def close(self) -> None:
        """Free them; they live on while a program uses them."""
        os.close(self.counters_fd)
        os.close(self.follow_fd)
        self.flows.close()


class Program:
    """The prefilter: the generation in force, and the maps that all of them share."""

    def __init__(self, plan: KernelPlan, options: Options = Options()) -> None:
        """Compile, load, and fill the maps; nothing is attached yet.

        Raises:
            KernelError: BCC is not installed, or the kernel refused the program or a map.
        """
        with suppress(ValueError, OSError):  # kernels before 5.11 charge maps to this limit
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self._options = options
        self._rings: list[PerfRing] = []
        try:
            self._shared = SharedMaps(options.flows, len(options.ifindexes))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise _refused(error) from error
            raise KernelError(f"the kernel has no memory for {options.flows} flows: set fewer") from error
        self._generation = self.compile(plan)

    @property
    def generation(self) -> Generation:
        """The one in force."""
        return self._generation

    @property
    def fd(self) -> int:
        """Of the program in force."""
        return self._generation.fd

    def compile(self, plan: KernelPlan) -> Generation:
        """Compile and load the program for a plan, ready to be attached in the place of the one in force.

        Takes some tenths of a second, in which other threads run.

        Raises:
            KernelError: The kernel refused it.
        """
        flags = BPF_F_XDP_HAS_FRAGS if self._options.multi_buffer else 0
        bpf = self._compile(plan.code)
        try:
            generation = Generation(bpf, flags)
        except OSError as error:
            _free(bpf)
            raise _refused(f"{error.strerror}: {error.filename}" if error.filename else error) from error
        try:
            maps.fill(generation.map_fd("port_classes"), plan.port_classes)
            self._fill_networks(generation)
        except OSError as error:
            generation.close()
            raise _refused(error) from error
        for ring in self._rings:
            _connect(generation, ring)
        return generation

    def use(self, generation: Generation) -> None:
        """Forget the generation in force; every interface runs this one by now."""
        self._generation.close()
        self._generation = generation

    def _compile(self, plan_code: str) -> Any:
        text = (_SOURCE / "prefilter.c").read_text(encoding="ascii")
        text = text.replace('#include "plan.h"', plan_code)
        flags = [f"-I{_SOURCE}", "-Wall", "-Werror", *self._options.flags(), *self._shared.flags()]
        try:
            return _import_bcc()(text=text.encode(), cflags=flags)
        except KernelError:
            raise
        except Exception as error:
            raise _refused(error) from error

    def _fill_networks(self, generation: Generation) -> None:
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
            fd = generation.map_fd(f"networks{network.version}")
            maps.update(fd, _network_key(network), np.array([meaning], np.uint32))

    def connect(self, rings: Iterable[PerfRing]) -> None:
        """Let the program submit to these rings, each on its CPU.

        Raises:
            KernelError: The kernel refused.
        """
        for ring in rings:
            self._rings.append(ring)
            _connect(self._generation, ring)

    def counters(self) -> dict[abi.Counter, tuple[int, int]]:
        """Frames and bytes of every bucket, summed over interfaces and CPUs."""
        buckets = self.counters_by_cpu()["of"]
        frames, size = (buckets[name].sum(axis=(0, 1)).tolist() for name in ("frames", "bytes"))
        return {counter: (frames[counter], size[counter]) for counter in abi.Counter}

    def counters_by_cpu(self) -> NDArray[np.void]:
        """All that the kernel counts, shape (interfaces, CPUs): an `abi.COUNTERS` each."""
        fd, cpus = self._shared.counters_fd, maps.possible_cpus()
        interfaces = range(len(self._options.ifindexes))
        return np.array([maps.element(fd, abi.COUNTERS, cpus, index=index) for index in interfaces])

    def flow(self, key: FlowKey) -> KernelFlow | None:
        """Return what is remembered of a flow (see `flow_key`); None: nothing."""
        return self._shared.flows.find(key)

    def set_verdict(self, key: FlowKey, verdict: abi.Verdict, *, frames: int = 0, until_ns: int = 0) -> bool:
        """Decide about a flow; whether it is remembered still. See `KernelFlows.set_verdict`."""
        remembered = self._shared.flows.set_verdict(key, verdict, frames=frames, until_ns=until_ns)
        if remembered and verdict == abi.Verdict.FOLLOW:
            self._shared.follow(until_ns)
        return remembered

    @property
    def counters_fd(self) -> int:
        """Of the map that `counters_by_cpu` reads: all that a forked child needs to go on counting."""
        return self._shared.counters_fd

    def memory_bytes(self) -> dict[str, int]:
        """What each map takes."""
        shared, own = self._shared, ("port_classes", "frames", "works")
        fds = {"counters": shared.counters_fd, "flows": shared.flows.fd, "follow": shared.follow_fd}
        fds |= {name: self._generation.map_fd(name) for name in own}
        return {name: maps.memory_bytes(fd) for name, fd in fds.items()}

    def close(self) -> None:
        """Free program and maps; they live on while an interface holds them."""
        self._generation.close()
        self._shared.close()


def _free(bpf: Any) -> None:
    """Close what BCC made, and let go of it: BCC itself holds on to everything until the process ends."""
    bpf.cleanup()
    atexit.unregister(bpf.cleanup)


def _connect(generation: Generation, ring: PerfRing) -> None:
    key, value = np.array([ring.cpu], np.uint32), np.array([ring.fd], np.uint32)
    try:
        maps.update(generation.map_fd("frames"), key, value)
    except OSError as error:
        raise KernelError(
            f"CPU {ring.cpu}: the perf ring could not be connected: {error.strerror}"
        ) from error


def _definitions(values: dict[str, object]) -> list[str]:
    return [f"-D{name}={value}" for name, value in values.items()]


def _network_key(network: IpNetwork) -> NDArray[np.void]:
    if network.version == 4:
        return np.array([(network.prefixlen, int(network.network_address))], abi.NETWORK4)
    return np.array([(network.prefixlen, tuple(network.network_address.packed))], abi.NETWORK6)


def _jiffies(seconds: float) -> int:
    """Return a time in the kernel's ticks: its coarse clock moves by one of them at a time."""
    return round(seconds / time.clock_getres(_CLOCK_MONOTONIC_COARSE))


def _refused(reason: object) -> KernelError:
    return KernelError(
        f"the kernel program could not be loaded ({reason}); "
        "sensor needs Linux 5.15 or newer with eBPF enabled"
    )


def bcc_version() -> str:
    """Return the version of BCC.

    Raises:
        KernelError: It is missing.
    """
    _import_bcc()
    from bcc.version import __version__

    return str(__version__)


def _import_bcc() -> Any:
    os.environ["BCC_KERNEL_SOURCE"] = str(_SOURCE)
    try:
        from bcc import BPF
    except ImportError as error:
        raise KernelError(
            "BCC for this Python is missing: apt install python3-bpfcc, and use an environment made by "
            "/usr/bin/python3 -m venv --system-site-packages"
        ) from error
    return BPF
