"""A server that many tests ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_samples import Server, keep, open_directory, piece, serving

PIECES = [piece(number) for number in range(40)]
REPLY = piece(
    7, PIECES[7].timestamp_ns // 1000 + 500, reply=True, payload=b"HTTP/1.1 200 OK\r\n\r\n<p>Found</p>"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The API over forty packets, and an answer to one of them."""
    with open_directory() as directory:
        evidence = keep(directory / "evidence", [*PIECES[:8], REPLY, *PIECES[8:]])
        with serving(evidence, "--request-rate", "0") as running:
            yield running


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose contents the API may read, whoever it runs as."""
    with open_directory() as path:
        yield path
