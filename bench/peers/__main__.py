"""The highest rate at which each program keeps all expected frames.

Each program is started on a private wire, the same frames are sent, and the frames in its own files are
counted. tcpdump and dumpcap have no rules for payloads and have to keep every frame. Suricata keeps the
packets of alerts (``conditional: alerts``, Suricata 7). Programs that are not installed are listed as not
measured. Runs as ``python -m bench.peers``, as root.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.peers.peer_trial import PeerFailureError, PeerRig
from bench.peers.programs import NOT_MEASURED, PEERS, Peer
from sensor.bench.machine import machine
from sensor.bench.paced_capture import write_paced_capture
from sensor.bench.traffic.frames import write_capture
from sensor.bench.traffic.profiles import PROFILES, generate
from sensor.bench.wire import private_wire
from sensor.errors import SensorError

MATCHING = 0.01
"""Share of the generated frames made to hold one of the strings."""


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument(
        "capture", nargs="?", type=Path, help="capture to replay (default: generated office traffic)"
    )
    parser.add_argument("--frames", type=int, default=50_000, help="frames to generate (default 50,000)")
    parser.add_argument("--seconds", type=float, default=2, help="length of a trial (default 2)")
    parser.add_argument(
        "--halvings", type=int, default=5, help="bisection steps of the search for the rate (default 5)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with every trial")
    arguments = parser.parse_args()
    try:
        found = measure(arguments.capture, arguments.frames, arguments.seconds, arguments.halvings)
    except SensorError as error:
        print(f"peers: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        Console().print(table(found["programs"]))
    return 0


def measure(capture: Path | None, frames: int, seconds: float, halvings: int) -> dict[str, Any]:
    """Find the highest rate of every installed program."""
    where = machine()
    programs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sensor-peers-") as temporary, private_wire() as wire:
        directory = Path(temporary)
        if capture is None:
            capture = directory / "office.pcap"
            write_capture(capture, generate(PROFILES["office"], 1, frames, MATCHING))
        rig = PeerRig(wire, write_paced_capture([capture], directory, 1, wire.mtu), directory)
        for peer in PEERS:
            programs[peer.binary] = _measured(rig, peer, seconds, halvings)
    programs |= {name: {"not_measured": "not available"} for name in NOT_MEASURED}
    return {"bench": "peers", "machine": where, "trial_seconds": seconds, "programs": programs}


def _measured(rig: PeerRig, peer: Peer, seconds: float, halvings: int) -> dict[str, Any]:
    """Return the figures of a program, or why another program than ours has none."""
    if peer.binary != "sensor" and not shutil.which(peer.binary):
        return {"not_measured": "not installed"}
    try:
        return _search(rig, peer, seconds, halvings)
    except PeerFailureError as error:
        if peer.binary == "sensor":
            raise
        return {"not_measured": str(error)}


def _search(rig: PeerRig, peer: Peer, seconds: float, halvings: int) -> dict[str, Any]:
    """Send as fast as possible; if frames are lost, bisect between rates that passed and failed."""
    fastest = rig.run(peer, seconds, None)
    trials, best = [fastest], fastest if fastest.is_without_loss else None
    low, high = 0.0, fastest.offered_pps
    for _ in range(0 if best else halvings):
        trials.append(rig.run(peer, seconds, (low + high) / 2))
        if trials[-1].is_without_loss:
            best, low = trials[-1], trials[-1].offered_pps
        else:
            high = trials[-1].offered_pps
    return {
        "limited_by": "sender" if best is fastest else peer.binary,
        "zero_loss": best.as_dict() if best else None,
        "fastest": fastest.as_dict(),
        "trials": [trial.as_dict() for trial in trials],
    }


def table(programs: dict[str, Any]) -> Table:
    """Build a table of the results."""
    rows = Table(
        "program", "no loss up to", "CPU us/frame", "all CPUs", "MiB", "kept",
        title="same frames, same strings", caption=">: the sender was the limit",
    )  # fmt: skip
    for name, found in programs.items():
        if "not_measured" in found:
            rows.add_row(name, "not measured")
            continue
        best = found["zero_loss"] or found["fastest"]
        more = "> " if found["limited_by"] == "sender" else ""
        rows.add_row(
            name,
            f"{more}{best['offered_pps']:,}/s" if found["zero_loss"] else "always loses",
            f"{best['cpu_us_per_frame']:.2f}",
            f"{best['machine_us_per_frame']:.2f}",
            f"{best['memory_mib']:.0f}",
            f"{best['kept']:,} of {best['expected']:,}",
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
