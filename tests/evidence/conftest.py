"""Evidence that several tests search."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from evidence_queries import COUNT, random_items
from evidence_samples import DEVID

from sensor.evidence.block import block_of_objects
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.model import Evidence


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Evidence]]:
    """Return evidence of two devices around midnight, and its directory."""
    directory = tmp_path_factory.mktemp("kept")
    items = random_items(COUNT, seed=7)
    for devid in (DEVID, 12):
        writer = IndexedWriter(directory, devid, interface_name=lambda index: f"eth{index}")
        with closing(writer):
            for start in range(0, COUNT, 50):
                writer.write(
                    block_of_objects(
                        [one for one in items[start : start + 50] if (one.interface == 1) == (devid == 3)]
                    )
                )
                writer.tick(0)
    return directory, items
