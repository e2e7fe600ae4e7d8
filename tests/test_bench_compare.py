"""``sensor bench compare`` and ``sensor bench read``: what is said of two results, and of a file."""

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
    """Return what a measurement of one figure prints."""
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
def test_a_change_is_what_no_repeat_explains(after: dict[str, Any], changed: bool) -> None:
    """Each figure is named by its row."""
    [change] = compare(result(90, 100, 110), after)
    assert change.name == "rows office 2 workers zero_loss_pps"
    assert change.is_beyond_noise == changed
    assert change.ratio == after["rows"][0]["zero_loss_pps_spread"]["median"] / 100


def test_what_makes_results_hard_to_compare_is_named() -> None:
    """Another machine, warnings, figures without repeats."""
    notes = list(differences(result(1, 2, 3), {**result(5, 5, 5, "two"), "warnings": ["busy"]}))
    assert notes[0] == "cpu was one, is two"
    assert "second: busy" in notes
    assert any("noisy" in note for note in notes)


@pytest.mark.usefixtures("use_few_rules")
def test_reading_is_measured_and_compared(tmp_path: Path) -> None:
    """The counts are those of the file, and a result equals itself."""
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


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    """With a message that says how to make one."""
    for content in ("nonsense", "[]", "{}"):
        (tmp_path / "out.json").write_text(content)
        command = [*SENSOR, "compare", str(tmp_path / "out.json"), str(tmp_path / "out.json")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "JSON" in done.stderr or "--json" in done.stderr
