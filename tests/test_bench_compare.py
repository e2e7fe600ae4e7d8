"""``sensor bench compare`` and ``sensor bench read``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sensor.bench.compare import compare, differences
from sensor.bench.traffic.frames import write_capture
from sensor.bench.traffic.profiles import PROFILES, generate

SENSOR = [sys.executable, "-m", "sensor", "bench"]


def result(least: float, median: float, most: float, cpu: str = "one") -> dict[str, Any]:
    """Return the result of a measurement with one figure."""
    spread = {"least": least, "median": median, "most": most}
    return {
        "machine": {"cpu": cpu},
        "rows": [{"traffic": "office", "workers": 2, "zero_loss_pps_spread": spread}],
    }


@pytest.mark.parametrize(
    ("after", "changed"),
    [
        (result(90, 100, 110), False),
        (result(105, 115, 125), False),  # the repeats overlap
        (result(111, 120, 130), True),
        (result(70, 80, 89), True),
    ],
)
def test_a_change_is_beyond_the_spread_of_repeats(after: dict[str, Any], changed: bool) -> None:
    """A figure is named after its row, and a change counts only if the repeats do not overlap."""
    [change] = compare(result(90, 100, 110), after)
    assert change.name == "rows office 2 workers zero_loss_pps"
    assert change.is_beyond_noise == changed
    assert change.ratio == after["rows"][0]["zero_loss_pps_spread"]["median"] / 100


def test_reasons_against_a_comparison_are_printed() -> None:
    """Another machine, warnings and figures without repeats are reasons."""
    notes = list(differences(result(1, 2, 3), {**result(5, 5, 5, "two"), "warnings": ["busy"]}))
    assert notes[0] == "cpu was one, is now two"
    assert "after: busy" in notes
    assert any("noise is unknown" in note for note in notes)


@pytest.mark.usefixtures("use_few_rules")
def test_reading_is_measured_and_compared(tmp_path: Path) -> None:
    """The counts are those of the file, and a result compared with itself has no changes."""
    capture, out = tmp_path / "in.pcap", tmp_path / "out.json"
    write_capture(capture, generate(PROFILES["attack"], 1, 2000))
    flags = ["read", str(capture), "--quick", "--json"]
    text = subprocess.run([*SENSOR, *flags], check=True, capture_output=True, text=True).stdout
    found = json.loads(text)
    assert found["frames"] == 2000
    assert 0 < found["matched"] <= 2000
    assert found["user_us_per_frame"] > 0
    out.write_text(text)
    shown = subprocess.run(
        [*SENSOR, "compare", str(out), str(out)], check=True, capture_output=True, text=True
    ).stdout
    assert "user_us_per_frame" in shown
    assert "changed" not in shown


def test_a_file_without_a_result_is_refused(tmp_path: Path) -> None:
    """The message says how to make a result."""
    for content in ("nonsense", "[]", "{}"):
        (tmp_path / "out.json").write_text(content)
        command = [*SENSOR, "compare", str(tmp_path / "out.json"), str(tmp_path / "out.json")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "JSON" in done.stderr or "--json" in done.stderr
