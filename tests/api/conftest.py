"""A server shared by many tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_samples import Server, evidence_item, keep, open_directory, serving

ITEMS = [evidence_item(number) for number in range(40)]
REPLY = evidence_item(
    7, ITEMS[7].timestamp_ns // 1000 + 500, reply=True, payload=b"HTTP/1.1 200 OK\r\n\r\n<p>Found</p>"
)


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
