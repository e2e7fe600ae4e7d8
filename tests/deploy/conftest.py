"""Fixtures of the deployment tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from playbook import build_bundle, build_next_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of this tree, built by `make bundle`."""
    return build_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def next_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of version 9.8.7. To build it, pip fetches what no private network reaches."""
    return build_next_bundle(bundle, "9.8.7", tmp_path_factory.mktemp("next-bundle"))
