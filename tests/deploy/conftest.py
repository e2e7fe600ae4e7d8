"""Fixtures of the deployment tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from playbook import build_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of this tree, built by `make bundle`."""
    return build_bundle(tmp_path_factory.mktemp("bundle"))
