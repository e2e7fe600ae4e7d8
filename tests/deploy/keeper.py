"""Boots a container, and removes it completely when standard input ends.

It runs as the first process of its own PID and mount namespaces. Even if the test is killed by SIGKILL,
all mounts and processes end with this process; it removes the control groups itself.

Arguments: the tree to boot, a name, and a file descriptor of the network namespace to boot it in.
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
"""Exit code of systemd-nspawn --keep-unit when the container reboots."""
_EMPTY_S = 10


def main(tree: str, name: str, network_fd: str) -> None:
    """Boot the container, again at each reboot, until standard input ends."""
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
    """Run a command until it or standard input ends; return its exit code."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    select.select([sys.stdin, os.pidfd_open(process.pid)], [], [])
    if process.poll() is None and os.getpid() == 1:
        # Kill the whole namespace: the command killed alone would leave the container behind.
        os.kill(-1, signal.SIGKILL)
    return process.wait()


def _overlay(tree: Path) -> Path:
    """Mount an overlay on the tree and return it; like all mounts here, it ends with this process."""
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
    """Yield the control groups in which systemd-nspawn creates others: in systemd's hierarchy, and in v2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            yield Path(f"/sys/fs/cgroup/systemd{path}")
        elif not controllers:
            hybrid = Path("/sys/fs/cgroup/unified")
            yield Path(f"{hybrid if hybrid.exists() else hybrid.parent}{path}")


@contextmanager
def _control_group(parent: Path, name: str) -> Iterator[None]:
    """Run this process in a new group; remove it with all groups in it at the end."""
    group = parent / name
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        deadline = time.monotonic() + _EMPTY_S
        while group.exists() and time.monotonic() < deadline:  # until the last processes have ended
            for directory, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(directory).rmdir()


if __name__ == "__main__":
    main(*sys.argv[1:])
