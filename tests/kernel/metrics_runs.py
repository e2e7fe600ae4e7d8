"""Traffic and child processes for the tests of metrics."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from live import TIMEOUT_S, Run, replay, wait_until_received

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture

Network = tuple[str, str]


def child(run: Run, name: str) -> int:
    """Return the process id of the sensor's child with this name; wait for it."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
        for pid in children:
            with suppress(FileNotFoundError):  # it has ended
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    return int(pid)
    raise AssertionError(f"no {name}")


def send(network: Network, directory: Path) -> int:
    """Replay the demo's traffic; return its number of frames."""
    frames = mix.demo(seed=1).frames
    write_capture(directory / "traffic.pcap", frames)
    replay(network[1], directory / "traffic.pcap")
    wait_until_received(network[0], len(frames))
    return len(frames)
