"""Serves the files of the page. Runs in the API process.

The files are read at start, because the process may not be allowed to read them after it has dropped its
privileges. ``pages/`` contains HTML, scripts and styles; the page loads nothing from other sites.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import Response

DIRECTORY = Path(__file__).with_name("pages")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


def add_pages(app: FastAPI, directory: Path = DIRECTORY) -> None:
    """Serve each file of the directory under its name, and ``index.html`` under ``/`` too."""
    files = sorted(directory.iterdir()) if directory.is_dir() else []
    for path in files:
        if path.suffix in TYPES:
            _add(app, f"/{path.name}", path.read_bytes(), TYPES[path.suffix])
            if path.name == "index.html":
                _add(app, "/", path.read_bytes(), TYPES[path.suffix])


def _add(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}

    async def page(request: Request) -> Response:
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    app.add_route(path, page, methods=["GET"], include_in_schema=False)
