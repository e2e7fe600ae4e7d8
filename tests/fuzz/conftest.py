"""Fixtures for the fuzzers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import sanitised


@pytest.fixture(scope="session")
def sanitised_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the native code with sanitisers."""
    return sanitised.build(tmp_path_factory.mktemp("sanitised"))
