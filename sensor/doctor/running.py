"""The sensor that is already running; interfaces, addresses and directories that it uses are not faults."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sensor.config.settings import Settings
from sensor.evidence.directory_lock import writing_process


def running_sensor(settings: Settings) -> int | None:
    """Return the process that writes evidence for these settings; None if there is none, or it is hidden."""
    try:
        return writing_process(settings.evidence, settings.devid)
    except (OSError, ValueError):
        return None


def has_attached(process: int, program_id: int) -> bool:
    """Return True if a process keeps an XDP program attached (proc(5), fdinfo)."""
    line = f"prog_id:\t{program_id}\n"
    with suppress(OSError):
        return any(line in file.read_text() for file in Path(f"/proc/{process}/fdinfo").iterdir())
    return False


def listening_process(port: int) -> int | None:
    """Return the process that listens on a TCP port of this host; None if there is none, or it is hidden."""
    inodes = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(file.readlink()) in inodes for file in (process / "fd").iterdir()):
                return int(process.name)
    return None


def belongs_to(process: int, supervisor: int) -> bool:
    """Return True if a process is the supervisor itself or one of its children."""
    with suppress(OSError):
        parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        return supervisor in (process, parent)
    return False


def _listening(port: int) -> list[str]:
    """Return the inodes of the sockets that listen on a port (proc_net_tcp)."""
    inodes = []
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.append(fields[9])
    return inodes
