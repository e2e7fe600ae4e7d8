"""The demo: the sensor captures generated traffic on a private wire.

Runs as ``python -m bench.demo``, as root; ``make demo`` starts it. The wire is a veth pair in a network
namespace that only this process and its two children hold, and the children die with it: nothing is left
behind, however the demo ends. The evidence stays, and the last lines of the output say where.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from bench.outcome import counters_table, matches_table, missing, wrong_sums
from sensor.bench.private_network import private_network, veth_pair
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.counters import Counters
from sensor.errors import SensorError
from sensor.process.tied import tied

MIRROR, SOURCE = "mirror", "source"
FRAMES_PER_SECOND = 2000
TIMEOUT_S = 20


class DemoError(SensorError):
    """The demo failed."""


def main() -> int:
    """Run the demo, and return its exit code: 0 if all attacks were found and all counters add up."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    console = Console(markup=False, emoji=False)  # payloads are text, not markup
    if not console.is_terminal:
        console.width = 160
    try:
        return demo(console, Path(tempfile.mkdtemp(prefix="sensor-demo-")))
    except SensorError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except subprocess.TimeoutExpired:
        print(f"demo: the sensor did not stop within {TIMEOUT_S} s", file=sys.stderr)
        return DemoError.exit_code
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130


def demo(console: Console, directory: Path) -> int:
    """Generate and capture traffic, with all files in ``directory``."""
    traffic = mix.demo(seed=1)
    capture = directory / "traffic.pcap"
    write_capture(capture, traffic.frames)
    console.print(f"generated {len(traffic.frames):,} frames of traffic")
    with private_network():
        veth_pair(MIRROR, SOURCE)
        console.print(f"starting the sensor on interface {MIRROR}; it first compiles its rules")
        with sensor(directory / "evidence", directory / "matches.jsonl") as log:
            console.print(log[-1])
            console.print(f"replaying the traffic at {FRAMES_PER_SECOND:,} frames/s")
            replay(capture)
            wait_for_frames(len(traffic.frames))
            console.print("stopping the sensor")
    return show(console, directory, traffic, final_counters(log))


def show(console: Console, directory: Path, traffic: mix.Traffic, counters: Counters) -> int:
    """Print the evidence and the counters, and return the exit code."""
    lines = (directory / "matches.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    files = sorted(directory.glob("evidence/**/*.pcap"))
    threats = sum(expected.rule_class == "threat" for expected in traffic.expected)
    banners = len(traffic.expected) - threats
    console.print(matches_table(found), counters_table(counters))
    console.print(f"traffic  {directory}/traffic.pcap ({threats} attacks, {banners} banners)", soft_wrap=True)
    console.print(f"matches  {directory}/matches.jsonl ({len(found)})", soft_wrap=True)
    for file in files:
        console.print(f"evidence {file}", soft_wrap=True)
    errors = [*missing(traffic.expected, found), *wrong_sums(counters, len(traffic.frames), files)]
    for error in errors:
        console.print(f"wrong    {error}", style="red", soft_wrap=True)
    return 1 if errors else 0


@contextmanager
def sensor(evidence: Path, matches: Path) -> Iterator[list[str]]:
    """Run the sensor on one end of the wire, and yield the lines of its log; at the end they are complete.

    Raises:
        DemoError: the sensor ended early or with an error.
        subprocess.TimeoutExpired: the sensor did not stop.
    """
    options = ("--interface", MIRROR, "--evidence", str(evidence), "--json", "--no-api")
    command = tied(sys.executable, "-m", "sensor", "run", *options)
    log: list[str] = []
    with (
        matches.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            wait_until_ready(process, log)
            yield log
            process.send_signal(signal.SIGINT)
            log += process.communicate(timeout=TIMEOUT_S)[1].splitlines()
        except BaseException:
            process.kill()  # while it compiles rules, it reacts to no other signal
            raise
    if process.returncode:
        raise DemoError(f"the sensor ended with code {process.returncode}: {log[-1]}")


def wait_until_ready(process: subprocess.Popen[str], log: list[str]) -> None:
    """Read the sensor's log up to the line that says it captures.

    Raises:
        DemoError: the sensor ended before that.
    """
    for line in process.stderr or ():
        log.append(line.rstrip())
        if "capturing on" in line:
            return
    raise DemoError(f"the sensor did not start: {log[-1] if log else 'it logged nothing'}")


def final_counters(log: list[str]) -> Counters:
    """Return the counters the sensor logs at its end."""
    *_, last = (line.partition("counters: ")[2] for line in log if "counters: " in line)
    return Counters(**json.loads(last))


def replay(capture: Path) -> None:
    """Send the capture from the other end of the wire.

    Raises:
        DemoError: tcpreplay failed.
    """
    command = tied("tcpreplay", "--intf1", SOURCE, "--pps", str(FRAMES_PER_SECOND), str(capture))
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise DemoError(f"tcpreplay ended with code {done.returncode}:\n{done.stderr}")


def wait_for_frames(count: int) -> None:
    """Wait until the driver has passed all frames to the sensor's program.

    Raises:
        DemoError: some frames did not arrive.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while (received := received_frames()) < count:
        if time.monotonic() > deadline:
            raise DemoError(f"only {received} of {count} frames arrived on {MIRROR}")
        time.sleep(0.01)


def received_frames() -> int:
    """Return the frames the interface has received (/proc/net/dev: bytes, frames, ... after the colon)."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    counts = next(line.partition(":")[2] for line in lines if line.strip().startswith(f"{MIRROR}:"))
    return int(counts.split()[1])


if __name__ == "__main__":
    sys.exit(main())
