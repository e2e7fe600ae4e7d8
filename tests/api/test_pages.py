"""Tests of the page's files: which are served, with what type, and how they are cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import pytest
from fastapi import FastAPI

from sensor.api.page_files import add_pages

Get = Callable[..., httpx.Response]


@pytest.fixture
def get(tmp_path: Path) -> Get:
    """Return a function that sends requests to an application whose files were deleted after start."""
    files = {
        "index.html": "<p>page</p>",
        "app.js": "start()",
        "theme.css": "p {}",
        ".secret": "x",
        "notes.txt": "x",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    add_pages(app, tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()

    def ask(path: str, **headers: str) -> httpx.Response:
        async def main() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.get(path, headers=headers)

        return anyio.run(main)

    return ask


@pytest.mark.parametrize(
    ("path", "content", "media_type"),
    [
        ("/", "<p>page</p>", "text/html; charset=utf-8"),
        ("/index.html", "<p>page</p>", "text/html; charset=utf-8"),
        ("/app.js", "start()", "text/javascript; charset=utf-8"),
        ("/theme.css", "p {}", "text/css; charset=utf-8"),
    ],
)
def test_files_are_served_by_their_types(get: Get, path: str, content: str, media_type: str) -> None:
    """Files are served from memory with their content types."""
    response = get(path)
    assert (response.status_code, response.text, response.headers["content-type"]) == (
        200,
        content,
        media_type,
    )
    assert response.headers["cache-control"] == "no-cache"


def test_an_unchanged_file_is_not_sent_again(get: Get) -> None:
    """A file with the same ETag is answered 304."""
    tag = get("/app.js").headers["etag"]
    again = get("/app.js", **{"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert get("/theme.css", **{"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize("path", ["/.secret", "/notes.txt", "/nothing.js", "/%2e%2e/etc/passwd"])
def test_nothing_else_is_served(get: Get, path: str) -> None:
    """Hidden files, other types and paths outside the directory are 404."""
    assert get(path).status_code == 404


def test_missing_pages(tmp_path: Path) -> None:
    """Without the directory of pages, no routes are added."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    add_pages(app, tmp_path / "nowhere")
    assert not app.routes
