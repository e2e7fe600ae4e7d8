"""Keeps a container: boots it, and takes everything away again when standard input ends.

The first process of a PID and mount namespace of its own, so that nothing stays behind whatever ends the
test that started it, SIGKILL included: mounts and processes end with this one; it sees to the control groups.

Arguments: the tree to boot, a name, a file descriptor of the network namespace to boot it in.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_REBOOT = 133
"""How systemd-nspawn ends for that with --keep-unit."""
_EMPTY_S = 10


def main(tree: str, name: str, network_fd: str) -> None:
    """Boot, again where the container asks for that, until standard input ends."""
    command = [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        "--register=no",
        "--keep-unit",
        f"--machine={name}",
        "--console=read-only",
        "--capability=all",
        "--system-call-filter=bpf perf_event_open",
        f"--network-namespace-path=/proc/{os.getpid()}/fd/{network_fd}",
    ]
    with ExitStack() as stack:
        for parent in _control_groups():
            stack.enter_context(_control_group(parent, name))
        command.append(f"--directory={_overlay(Path(tree))}")
        while _run(command) == _REBOOT:
            pass


def _run(command: list[str]) -> int:
    """Run it until it ends, or until standard input does; its exit code."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    select.select([sys.stdin, os.pidfd_open(process.pid)], [], [])
    if process.poll() is None and os.getpid() == 1:
        os.kill(
            -1, signal.SIGKILL
        )  # all of this namespace: killed alone, it would leave the container behind
    return process.wait()


def _overlay(tree: Path) -> Path:
    """Mount the tree so that what is written to it is gone with this process, as all other mounts here."""
    _mount("tmpfs", "/mnt")
    upper, work, root = (Path("/mnt") / name for name in ("upper", "work", "root"))
    for directory in (upper, work, root):
        directory.mkdir()
    _mount("overlay", str(root), f"lowerdir={tree},upperdir={upper},workdir={work}")
    Path("/run/systemd/nspawn").mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", "/run/systemd/nspawn")
    return root


def _mount(kind: str, where: str, options: str = "mode=755") -> None:
    subprocess.run(["mount", "-t", kind, "-o", options, kind, where], check=True)


def _control_groups() -> Iterator[Path]:
    """The groups of this process where systemd-nspawn makes some: in systemd's hierarchy and in version 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            yield Path(f"/sys/fs/cgroup/systemd{path}")
        elif not controllers:
            hybrid = Path("/sys/fs/cgroup/unified")
            yield Path(f"{hybrid if hybrid.exists() else hybrid.parent}{path}")


@contextmanager
def _control_group(parent: Path, name: str) -> Iterator[None]:
    """Be in a group of one's own; it is removed with all those in it."""
    group = parent / name
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        deadline = time.monotonic() + _EMPTY_S
        while group.exists() and time.monotonic() < deadline:  # the kernel is about to end the last processes
            for directory, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(directory).rmdir()


if __name__ == "__main__":
    main(*sys.argv[1:])
