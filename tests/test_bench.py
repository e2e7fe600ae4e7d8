"""``sensor bench store`` and ``match`` measure the real thing; the rest of it is in ``kernel/``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest

from sensor.bench import made_evidence
from sensor.bench.store import measure
from sensor.evidence.verify import verify
from tests.api.api_samples import open_directory

SENSOR = [sys.executable, "-m", "sensor"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory that the API may pass, which is measured without privileges."""
    with open_directory() as path:
        yield path


def test_store_prints_every_figure_and_cleans_up(directory: Path) -> None:
    """As JSON; the directory is as it was."""
    flags = ("--pieces", "2000", "--directory", str(directory))
    done = subprocess.run(
        [*SENSOR, "bench", "store", *flags, "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["pieces"] == 2000
    assert found["lookup_ms"].keys() == found["scan_ms"].keys() == {"p50", "p99"}
    assert min(found["first_page_ms"].values()) > 0
    assert list(directory.iterdir()) == []


def test_what_is_measured_is_evidence(directory: Path) -> None:
    """Every piece is written and indexed; the files and the index agree."""
    taken: list[int] = []
    found = measure(directory, 3000, taken.append)
    assert sum(taken) == found["pieces"] == 3000
    verdicts = list(verify(directory / "3", 3))
    assert sum(verdict.packets for verdict in verdicts) == 3000
    assert not [verdict.fault for verdict in verdicts if verdict.fault]


def test_samples_are_the_same_every_time() -> None:
    """Figures of two versions are comparable."""
    assert list(made_evidence.items(50)) == list(made_evidence.items(50))
    assert (
        len(made_evidence.rules())
        == len({rule.rule_id for rule in made_evidence.rules()})
        == made_evidence.RULES
    )


def test_directory_that_is_missing() -> None:
    """Is a message, not a trace."""
    command = [*SENSOR, "bench", "store", "--pieces", "1000", "--directory", "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("use_few_rules")
def test_match_measures_every_payload() -> None:
    """Only the payload that a rule hits is hit, and each cost is a part of the whole."""
    command = [*SENSOR, "bench", "match", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    [one] = found["sets"]
    hits = {kind: costs["matches"] for kind, costs in one["payloads"].items()}
    assert hits == {"random bytes": 0, "text": 0, "http request": 0, "one match": 1}
    for costs in one["payloads"].values():
        assert min(cost for name, cost in costs.items() if name != "matches") > 0
        rivals = ["re", "pcre2"] if find_library("pcre2-8") else ["re"]
        for rival in rivals:
            assert costs[f"ratio_to_{rival}"] == pytest.approx(costs["match_us"] / costs[f"{rival}_us"], 0.01)
