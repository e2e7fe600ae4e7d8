"""The task of a reindexer: JSON that the supervisor writes to its standard input. Used by both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from sensor.config.settings import Settings


class Task(NamedTuple):
    """The settings of a reindexer."""

    settings: Settings
    directory: Path
    """The directory of the device."""

    def as_json(self) -> bytes:
        """Return the task as JSON."""
        values = {"settings": self.settings.model_dump(mode="json"), "directory": str(self.directory)}
        return json.dumps(values).encode("ascii")

    @classmethod
    def of(cls, data: bytes) -> Task:
        """Return the task that `as_json` encoded."""
        values = json.loads(data)
        return cls(Settings.model_validate(values["settings"]), Path(values["directory"]))
