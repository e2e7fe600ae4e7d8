"""The page's files: which are served, as what, and that a browser need not fetch them twice."""

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
    """Ask an application that has read the files of a directory, which are gone since."""
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
    """From memory, since the process may not read them later."""
    response = get(path)
    assert (response.status_code, response.text, response.headers["content-type"]) == (
        200,
        content,
        media_type,
    )
    assert response.headers["cache-control"] == "no-cache"


def test_an_unchanged_file_is_not_sent_again(get: Get) -> None:
    """The tag is that of the content."""
    tag = get("/app.js").headers["etag"]
    again = get("/app.js", **{"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert get("/theme.css", **{"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize("path", ["/.secret", "/notes.txt", "/nothing.js", "/%2e%2e/etc/passwd"])
def test_nothing_else_is_served(get: Get, path: str) -> None:
    """No other kinds of files, and nothing outside the directory."""
    assert get(path).status_code == 404


def test_without_pages_there_is_nothing(tmp_path: Path) -> None:
    """An API without its page works."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    add_pages(app, tmp_path / "nowhere")
    assert not app.routes
