"""Fixtures for tests of the kernel program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from flow_packets import Open
from live import PASS_ALL
from worker_site import Site

from sensor.capture.program import Program, ProgramOptions


@pytest.fixture
def load() -> Iterator[Open]:
    """Return a function that loads a program with options. All programs are closed at the end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            closing(Program(PASS_ALL, ProgramOptions(**{"flows": 1024, **options})))
        )


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the evidence directory of the settings, which does not exist yet."""
    monkeypatch.setenv("SENSOR_EVIDENCE", str(tmp_path / "evidence"))
    return tmp_path / "evidence"


@pytest.fixture
def site() -> Iterator[Site]:
    """Load a program with a ring on every CPU; workers end with the test."""
    with ExitStack() as stack:
        yield Site(stack)
