"""Control groups whose processes can be frozen, of both versions of the kernel's interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import wait_until

_NAME = "sensor-test"


class Freezer:
    """A control group that was made for a test."""

    def __init__(self, directory: Path, control: str, frozen: str, thawed: str) -> None:
        self._directory, self._control = directory, directory / control
        self._frozen, self._thawed = frozen, thawed

    def freeze(self, process: int) -> None:
        """Move a process into the group, and freeze it."""
        (self._directory / "cgroup.procs").write_text(str(process))
        self._control.write_text(self._frozen)
        state = self._directory / "cgroup.events"
        if state.exists():
            wait_until(lambda: "frozen 1" in state.read_text())
        else:
            wait_until(lambda: self._control.read_text().strip() == self._frozen)

    def thaw(self) -> None:
        """Let the processes of the group go on."""
        self._control.write_text(self._thawed)


def freezers() -> dict[str, tuple[Path, str, str, str]]:
    """Return where groups that can be frozen can be made on this host, by version."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = {}
    for _, directory, kind, options, *_ in mounts:
        if kind == "cgroup2":
            found["v2"] = (Path(directory), "cgroup.freeze", "1", "0")
        elif kind == "cgroup" and "freezer" in options.split(","):
            found["v1"] = (Path(directory), "freezer.state", "FROZEN", "THAWED")
    return found


@contextmanager
def freezer(version: str) -> Iterator[Freezer]:
    """Make a group of this version; its processes are thawed at the end, and it is removed when they end."""
    root, *words = freezers()[version]
    directory = root / _NAME
    directory.mkdir()
    group = Freezer(directory, *words)
    try:
        yield group
    finally:
        group.thaw()
        wait_until(lambda: not (directory / "cgroup.procs").read_text().split())
        directory.rmdir()
