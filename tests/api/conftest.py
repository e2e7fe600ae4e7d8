"""A server shared by many tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_samples import ITEMS, REPLY, Server, keep, open_directory, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield the API over forty packets and a reply to one of them."""
    with open_directory() as directory:
        evidence = keep(directory / "evidence", [*ITEMS[:8], REPLY, *ITEMS[8:]])
        with serving(evidence, "--request-rate", "0") as running:
            yield running


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory that the API may enter whatever user it runs as."""
    with open_directory() as path:
        yield path
