"""`sensor read` finds the same whatever the order of its files, and when a clock was set back in one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from sensor.bench import probe_frames
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.protocols import UDP
from tests.rules.commands import sensor

RULES = {"threat": {"rules": {"60001": {"type": "t", "name": "Word", "protocol": "udp", "regex": "ATTACK"}}}}
START_US = 1_767_607_200_000_000
HOUR_S, DAY_S = 3600, 86_400


def conversation(start_s: int, attack_at: int, length: int = 40) -> list[Frame]:
    """Return a packet per second between two ports that never change; one of them is an attack."""
    payloads = (b"ATTACK" if number == attack_at else b"quiet" for number in range(length))
    return [
        Frame(
            START_US + (start_s + number) * 1_000_000,
            probe_frames.ipv4(UDP, probe_frames.udp(payload, 514, sport=514)),
        )
        for number, payload in enumerate(payloads)
    ]


def hits(directory: Path, captures: Iterable[list[Frame]]) -> int:
    """Return how many attacks a run finds that reads these captures in this order."""
    (directory / "rules").mkdir()
    (directory / "rules" / "threat.json").write_text(json.dumps(RULES))
    paths = []
    for number, frames in enumerate(captures):
        paths.append(directory / f"{number}.pcap")
        write_capture(paths[-1], frames)
    done = sensor("read", *map(str, paths), "--json", "--rules", str(directory / "rules"))
    assert done.code == 0, done.err
    return len(done.out.splitlines())


@pytest.mark.parametrize("apart_s", [HOUR_S, DAY_S])
def test_files_in_the_order_of_a_shell(apart_s: int, tmp_path: Path) -> None:
    """Names such as 1, 10, 11, 12, 2 put later files first; each file has its attack."""
    order = sorted(range(1, 13), key=str)
    assert hits(tmp_path, [conversation(number * apart_s, 3) for number in order]) == 12


def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    """The packets after it belong to another flow than the forty before it."""
    frames = [*conversation(HOUR_S, -1), *conversation(0, 2)]
    assert hits(tmp_path, [frames]) == 1
