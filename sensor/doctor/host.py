"""The kernel, what this process may ask of it, and the clock."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

from sensor.capture.cpus import online_cpus
from sensor.capture.syscalls import clock_is_synchronised
from sensor.config.settings import Settings
from sensor.finding import Finding
from sensor.process.capabilities import held_capabilities, missing_capabilities

OLDEST = (5, 15)


def host_findings(settings: Settings) -> Iterator[Finding]:
    """Look at the kernel and at what this process may do."""
    yield kernel_finding(os.uname().release)
    yield from _compiler()
    yield from _type_information()
    yield from _lockdown()
    yield _privileges()
    yield from _memlock(settings)
    yield _clock()


def kernel_finding(release: str) -> Finding:
    """Compare a release with the oldest one that takes the program."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < OLDEST:
        return Finding(
            level="error",
            check="kernel",
            what=f"Linux {release} is older than {OLDEST[0]}.{OLDEST[1]}",
            why="it refuses the program",
            advice="install a newer kernel",
        )
    return Finding(level="ok", check="kernel", what=f"Linux {release}")


def _compiler() -> Iterator[Finding]:
    """Where the file is not there, the kernel always compiles, or this is another network namespace."""
    setting = _read("/proc/sys/net/core/bpf_jit_enable")
    if setting == "0":
        yield Finding(
            level="warning",
            check="jit",
            what="eBPF is interpreted",
            why="every frame costs several times as much",
            advice="have it compiled",
            command="sysctl -w net.core.bpf_jit_enable=1",
            is_safe=True,
        )
    elif setting:
        yield Finding(level="ok", check="jit", what="eBPF is compiled")


def _type_information() -> Iterator[Finding]:
    there = Path("/sys/kernel/btf/vmlinux").exists()
    yield Finding(
        level="ok" if there else "note",
        check="btf",
        what="the kernel describes its types (BTF)"
        if there
        else "the kernel does not describe its types (BTF)",
        why="" if there else "other eBPF tools may not work; sensor does without",
    )


def _lockdown() -> Iterator[Finding]:
    found = re.search(r"\[(\w+)\]", _read("/sys/kernel/security/lockdown"))
    if found and found[1] != "none":
        yield Finding(
            level="note",
            check="lockdown",
            what=f"the kernel is locked down ({found[1]})",
            why="tools that trace the kernel may be refused; sensor does without what is locked",
        )


def _privileges() -> Finding:
    missing = missing_capabilities()
    if missing:
        return Finding(
            level="error",
            check="privileges",
            what=f"this process lacks {', '.join(missing)}",
            why="it may not capture",
            advice="run it as root, or in a service that has them",
        )
    return Finding(level="ok", check="privileges", what="all capabilities that capturing takes")


def _memlock(settings: Settings) -> Iterator[Finding]:
    """Rings are locked memory: each user may lock some for them, and up to a limit (perf_event_open(2))."""
    held = held_capabilities()
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    unlimited = hard == resource.RLIM_INFINITY or held & {"CAP_IPC_LOCK", "CAP_SYS_RESOURCE"}
    if unlimited or int(_read("/proc/sys/kernel/perf_event_paranoid") or 2) < 0:
        return
    cpus = len(online_cpus())
    free_kib = int(_read("/proc/sys/kernel/perf_event_mlock_kb") or 0) * cpus
    needed_kib = settings.ring_mib * 1024 * cpus
    if needed_kib > free_kib + hard // 1024:
        yield Finding(
            level="error",
            check="memlock",
            what=f"{needed_kib >> 10} MiB of rings are locked memory, of which this process may have "
            f"{(free_kib + hard // 1024) >> 10}",
            why="the kernel refuses them",
            advice="lower ring_mib, or let it have more: LimitMEMLOCK=infinity in its service",
        )


def _clock() -> Finding:
    is_synchronised = clock_is_synchronised()
    if is_synchronised is None:
        return Finding(level="ok", check="clock", what="the clock is not this process's to ask about")
    if is_synchronised:
        return Finding(level="ok", check="clock", what="the clock is synchronised")
    return Finding(
        level="warning",
        check="clock",
        what="the clock is not synchronised",
        why="the times of evidence are not those of other hosts",
        advice="start a time service",
        command="timedatectl set-ntp true",
    )


def _read(path: str) -> str:
    """Return a file of the kernel's, or nothing where there is none, or it may not be read."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
