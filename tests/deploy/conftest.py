"""What the deployments share."""

from __future__ import annotations

from pathlib import Path

import pytest
from playbook import build_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sensor of this tree with all its packages, as `make bundle` makes it."""
    return build_bundle(tmp_path_factory.mktemp("bundle"))
