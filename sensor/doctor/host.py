"""Checks of the kernel, of the privileges of this process, and of the clock."""

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
from sensor.process.accounts import SWITCHING, can_switch_users
from sensor.process.capabilities import held_capabilities, missing_capabilities

OLDEST = (5, 15)


def host_findings(settings: Settings) -> Iterator[Finding]:
    """Check the kernel, the privileges of this process, and the clock."""
    yield kernel_finding(os.uname().release)
    yield from _compiler()
    yield from _type_information()
    yield from _lockdown()
    yield _privileges()
    yield from _memlock(settings)
    yield _clock()


def kernel_finding(release: str) -> Finding:
    """Compare a kernel release with the oldest one that can run the program."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < OLDEST:
        return Finding(
            level="error",
            check="kernel",
            what=f"Linux {release} is older than {OLDEST[0]}.{OLDEST[1]}",
            why="it refuses the XDP program",
            advice="install a newer kernel",
        )
    return Finding(level="ok", check="kernel", what=f"Linux {release}")


def _compiler() -> Iterator[Finding]:
    """Check that eBPF is compiled.

    Without the file, the kernel always compiles, or this is not the first network namespace.
    """
    setting = _read("/proc/sys/net/core/bpf_jit_enable")
    if setting == "0":
        yield Finding(
            level="warning",
            check="jit",
            what="the kernel interprets eBPF instead of compiling it",
            why="every frame costs several times as much",
            advice="turn the compiler on",
            command="sysctl -w net.core.bpf_jit_enable=1",
            is_safe=True,
        )
    elif setting:
        yield Finding(level="ok", check="jit", what="the kernel compiles eBPF")


def _type_information() -> Iterator[Finding]:
    exists = Path("/sys/kernel/btf/vmlinux").exists()
    yield Finding(
        level="ok" if exists else "note",
        check="btf",
        what="the kernel describes its types (BTF)"
        if exists
        else "the kernel does not describe its types (BTF)",
        why="" if exists else "other eBPF tools may not work; sensor does not need it",
    )


def _lockdown() -> Iterator[Finding]:
    found = re.search(r"\[(\w+)\]", _read("/sys/kernel/security/lockdown"))
    if found and found[1] != "none":
        yield Finding(
            level="note",
            check="lockdown",
            what=f"the kernel is locked down ({found[1]})",
            why="tools that trace the kernel may not work; sensor does not need what is locked",
        )


def _privileges() -> Finding:
    missing = missing_capabilities()
    if missing:
        return Finding(
            level="error",
            check="privileges",
            what=f"this process lacks {', '.join(missing)}",
            why="it cannot capture",
            advice="run sensor as root, or in a service with these capabilities",
        )
    if not can_switch_users():
        *others, last = SWITCHING
        return Finding(
            level="warning",
            check="privileges",
            what=f"this process lacks {', '.join(others)} or {last}",
            why="the processes of the sensor would share its user, and could disturb each other",
            advice="run sensor as root, or in a service with these capabilities as well",
        )
    return Finding(
        level="ok", check="privileges", what="this process has all capabilities that capturing needs"
    )


def _memlock(settings: Settings) -> Iterator[Finding]:
    """Check the limit of locked memory, which rings count against (perf_event_open(2))."""
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
            what=f"the rings need {needed_kib >> 10} MiB of locked memory, and this process may lock "
            f"{(free_kib + hard // 1024) >> 10} MiB",
            why="the kernel refuses the rings",
            advice="lower ring_mib, or raise the limit: LimitMEMLOCK=infinity in the service",
        )


def _clock() -> Finding:
    is_synchronised = clock_is_synchronised()
    if is_synchronised is None:
        return Finding(level="ok", check="clock", what="this process has no access to the state of the clock")
    if is_synchronised:
        return Finding(level="ok", check="clock", what="the clock is synchronised")
    return Finding(
        level="warning",
        check="clock",
        what="the clock is not synchronised",
        why="the times of evidence may differ from those of other hosts",
        advice="start a time service",
        command="timedatectl set-ntp true",
    )


def _read(path: str) -> str:
    """Return the text of a kernel file; empty if there is none or it cannot be read."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
