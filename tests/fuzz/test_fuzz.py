"""A few rounds of every fuzzer, always the same. ``make fuzz`` runs them for hours, each time others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.campaign import Campaign
from tests.fuzz.fuzzers import FUZZERS
from tests.rules import pcre_oracle

pytestmark = pytest.mark.skipif(not pcre_oracle.available(), reason="libpcre3 is not installed")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.kernel(alone=False)] if one.needs_kernel else [])
        for name, one in FUZZERS.items()
    ],
)
def test_no_fault(name: str, sanitised_library: Path, tmp_path: Path) -> None:
    """The rounds find no fault, and compare as much as they should."""
    fuzzer = FUZZERS[name]
    result = Campaign(1, tmp_path / "faults", sanitised_library).run(fuzzer, 3600, last=fuzzer.rounds)
    assert result.faults == [], "\n".join(result.faults)
    assert (result.rounds, result.comparisons >= fuzzer.comparisons) == (fuzzer.rounds, True), result
