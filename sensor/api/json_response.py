"""Responses as JSON in printable ASCII: ``curl`` shows them on terminals. Runs in the API process."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from sensor.text import to_json


class AsciiJson(JSONResponse):
    """JSON with an escape for each character that is not printable ASCII."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return to_json(content, compact=True).encode("ascii")
