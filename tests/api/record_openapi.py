"""Writes the OpenAPI document to ``docs/openapi.json``; run it when a test says that it is out of date."""

from __future__ import annotations

import json
from pathlib import Path

from sensor.api.app import create_app
from sensor.config.settings import Settings

RECORDED = Path(__file__).parents[2] / "docs" / "openapi.json"


def document() -> str:
    """Return the document as text."""
    return json.dumps(create_app(Settings()).openapi(), indent=1) + "\n"


if __name__ == "__main__":
    RECORDED.write_text(document())
