"""A campaign notices every kind of fault, and goes on after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import campaign
from tests.fuzz.campaign import Campaign
from tests.fuzz.fuzzers import Fuzzer


def test_every_kind_of_fault_is_noticed(
    sanitised_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A difference, an exception, an access outside of memory and an endless round; inputs are kept."""
    monkeypatch.setattr(campaign, "HANG_S", 10)
    fuzzer = Fuzzer("faulty_sample", rounds=6, comparisons=0, is_sanitised=True)
    result = Campaign(1, tmp_path, sanitised_library).run(fuzzer, 3600, last=6)
    starts = ["a difference", "Traceback", "ends the process with code -6: ", "hangs for 10 s: "]
    for number, (text, start) in enumerate(zip(result.faults, starts, strict=True), 1):
        assert text.startswith(f"round {number}: {start}")
    assert "ValueError: unexpected" in result.faults[1]
    assert "heap-buffer-overflow" in result.faults[2]
    assert "copy_records" in result.faults[2]
    assert "faulty_sample.py" in result.faults[3]
    assert (result.rounds, result.comparisons) == (4, 4)
    assert {path.parent.name for path in tmp_path.glob("*/fault.txt")} == {
        f"faulty_sample_sanitised-1-{end}" for end in ("1-0", "2-0", "3-end", "4-end")
    }
    assert (tmp_path / "faulty_sample_sanitised-1-1-0" / "frame.bin").read_bytes() == b"frame"
