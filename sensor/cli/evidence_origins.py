"""Looks up the capture files that evidence came from, for ``sensor evidence show``."""

from __future__ import annotations

from pathlib import Path

from sensor.cli.terminal import print_line
from sensor.errors import EvidenceError
from sensor.evidence.origins import CaptureOrigin, Origins
from sensor.evidence.stored import Stored


class OriginFinder:
    """The origins of evidence; each device's journal is read once."""

    def __init__(self) -> None:
        self._devices: dict[Path, Origins | None] = {}

    def find(self, stored: Stored) -> CaptureOrigin | None:
        """Return where an item came from; None if that is the network, or unknown."""
        directory = stored.path.parent
        if directory not in self._devices:
            self._devices[directory] = _origins(directory)
        origins = self._devices[directory]
        return origins.find(stored.path.name, stored.offset) if origins else None


def _origins(directory: Path) -> Origins | None:
    try:
        return Origins(directory)
    except EvidenceError as error:
        print_line(f"the capture files that evidence came from are unknown: {error}", err=True)
        return None
