"""``sensor bench store`` and ``match``; tests of the other measurements are in ``kernel/``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest

from sensor.bench import synthetic_evidence
from sensor.bench.store import measure
from sensor.evidence.verify import verify
from tests.api.api_samples import open_directory

SENSOR = [sys.executable, "-m", "sensor"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory the API can enter, as it runs without privileges."""
    with open_directory() as path:
        yield path


def test_store_prints_every_figure_and_deletes_its_files(directory: Path) -> None:
    """The figures are JSON, and the directory is empty afterwards."""
    flags = ("--pieces", "2000", "--directory", str(directory))
    done = subprocess.run(
        [*SENSOR, "bench", "store", *flags, "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["pieces"] == 2000
    assert found["lookup_ms"].keys() == found["scan_ms"].keys() == {"p50", "p99"}
    assert min(found["first_page_ms"].values()) > 0
    assert list(directory.iterdir()) == []


def test_the_evidence_measured_is_valid(directory: Path) -> None:
    """Every item is written and indexed; the files and the index agree."""
    progress: list[int] = []
    found = measure(directory, 3000, progress.append)
    assert sum(progress) == found["pieces"] == 3000
    verdicts = list(verify(directory / "3", 3))
    assert sum(verdict.packets for verdict in verdicts) == 3000
    assert not [verdict.fault for verdict in verdicts if verdict.fault]


def test_synthetic_evidence_is_the_same_every_time() -> None:
    """Figures of two versions can be compared."""
    rules = synthetic_evidence.rules()
    assert list(synthetic_evidence.items(50, rules)) == list(synthetic_evidence.items(50, rules))
    assert (
        len(synthetic_evidence.rules())
        == len({rule.rule_id for rule in synthetic_evidence.rules()})
        == synthetic_evidence.RULES
    )


def test_store_with_a_missing_directory() -> None:
    """The error is a message without a traceback."""
    command = [*SENSOR, "bench", "store", "--pieces", "1000", "--directory", "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("use_few_rules")
def test_match_measures_every_payload() -> None:
    """A rule matches only the matching payload, and each cost is positive."""
    command = [*SENSOR, "bench", "match", "--quick", "--trials", "10", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    [one] = found["sets"]
    matches = {kind: costs["matches"] for kind, costs in one["payloads"].items()}
    assert matches == {"random bytes": 0, "text": 0, "http request": 0, "one match": 1}
    for costs in one["payloads"].values():
        assert min(cost for name, cost in costs.items() if name != "matches") > 0
        baselines = ["re", "pcre2"] if find_library("pcre2-8") else ["re"]
        for name in baselines:
            assert costs[f"ratio_to_{name}"] == pytest.approx(costs["match_us"] / costs[f"{name}_us"], 0.01)
