"""Requests to the API: any path, query and headers get a well-formed answer, and never a server error.

The application runs inside this process, behind its guard. Its answers are those that the routes promise:
no more items than asked for, JSON where JSON is announced, capture files that can be read.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes, unquote

from evidence_queries import COUNT, random_items

from sensor.api.app import create_app, guarded
from sensor.config.settings import Settings
from sensor.evidence.block import block_of_objects
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.search import EvidenceSearch, Query
from sensor.files.capture_file import CaptureFile
from sensor.process.listener import Connections
from tests.fuzz.rounds import Round

REQUESTS = 300
_RULES = Path(__file__).parents[1] / "corpus" / "faulty" / "two-rules-of-three"
_OTHER_PATHS = ("/openapi.json", "/", "/app.js", "/nowhere", "//", "/api/v1/", "/api/v1/evidence/")
_OTHER_NAMES = ("", "a[b]", "rule_class", "since-us")
_TIMES_US = tuple(str(1_687_132_800_000_000 + number * 7_000_000) for number in range(-30, 30))
_USUAL = {
    **dict.fromkeys(("since_us", "until_us", "time"), _TIMES_US),
    "time_sec": ("1687132805",),
    "time_usec": ("500000", "0"),
    "devid": ("3", "3", "4"),
    **dict.fromkeys(("network", "ip"), ("10.0.0.0/8", "10.0.1.2", "2001:db8::/32")),
    "port": ("80", "443", "53"),
    "protocol": ("tcp", "17", "UDP"),
    "class": ("threat", "service"),
    "rule": ("100", "103"),
    "text": ("select", "index"),
    "limit": ("1", "50", "500"),
    "bins": ("1", "120", "500"),
    "download": ("true", "0"),
    "container": ("pcap", "pcapng"),
}
"""Values that each parameter may have."""
_WORDS = (
    *("", "0", "1", "3", "80", "443", "65536", "-1", "1e3", "0x10", "1_0", " 1", "\uff11", "9" * 30, "nan"),
    *("tcp", "256", "any", "10.0.0.1", "::/0", "1.2.3.4/33", "fe80::1%eth0", "select", "%00", "\0", "ünï"),
    *("' OR 1=1--", "a" * 300, "1687132805500003", "..", "pcap/../x", "1-2-3"),
)
_HEADERS = (
    *(
        (b"host", value)
        for value in (b"localhost", b"localhost:1", b"[::1]", b"evil", b"", b"[", b"127.0.0.1:x")
    ),
    *(
        (b"authorization", value)
        for value in (b"Bearer x", b"Bearer", b"basic \xff", b"Bearer " + b"x" * 5000)
    ),
    *((b"sec-fetch-site", value) for value in (b"cross-site", b"same-origin", b"\xff")),
    *(
        (b"range", b"bytes=0-1"),
        (b"accept", b"text/html"),
        (b"if-modified-since", b"x"),
        (b"content-length", b"9"),
    ),
)


@cache
def _evidence() -> tuple[Path, list[str]]:
    """Return a directory with evidence, and the keys of its items."""
    directory = Path(tempfile.mkdtemp(prefix="sensor-fuzz-api-"))
    with closing(IndexedWriter(directory, 3)) as writer:
        writer.write(block_of_objects(random_items(COUNT, seed=9)))
    return directory, [stored.key for stored in EvidenceSearch(directory).iterate(Query())]


@cache
def _routes() -> list[tuple[str, list[str]]]:
    """Return the paths in the API's document, each with the names of its parameters in the query."""
    paths = create_app(Settings()).openapi()["paths"]
    return [
        (path, [one["name"] for one in route["get"].get("parameters", ()) if one["in"] == "query"])
        for path, route in paths.items()
        if "get" in route
    ]


def fuzz(one: Round) -> None:
    """Send random requests, one after the other."""
    directory, keys = _evidence()
    settings = Settings(evidence=directory, rules=_RULES, lenient=True, request_rate=0)
    app = guarded(create_app(settings), settings, Connections(REQUESTS, REQUESTS))
    asyncio.run(_send_all(one, app, keys))


async def _send_all(one: Round, app: Any, keys: list[str]) -> None:
    for _ in range(REQUESTS):
        path, names = _path(keys, one.rng)
        query, headers = _query(names, one.rng), _headers(one.rng)
        text = f"{path}?{query.decode(errors='replace')} {headers}"
        with one.no_other_error(request_txt=text):
            method = "GET" if one.rng.random() < 0.9 else one.rng.choice(("HEAD", "POST", "BREW", "OPTIONS"))
            status, kind, body = await _answer(app, method, path, query, headers)
            _check(status, kind, body, one)
        one.comparisons += 1


async def _answer(
    app: Any, method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]
) -> tuple[int, str, bytes]:
    """Return the status, the content type and the body of the answer to a request."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 40_000),
        "server": ("127.0.0.1", 8321),
        "state": {},
    }
    started: dict[str, Any] = {}
    body = bytearray()

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            body.extend(message.get("body", b""))

    await app(scope, receive, send)
    kinds = [value.decode("latin-1") for name, value in started["headers"] if name.lower() == b"content-type"]
    return started["status"], "".join(kinds), bytes(body)


def _check(status: int, kind: str, body: bytes, one: Round) -> None:
    assert status < 500 or status == 503, (status, body)
    if "json" in kind and body:
        answer = json.loads(body)
        if status >= 400:
            assert answer["status"] == status
            assert answer["detail"]
        elif isinstance(answer, dict) and "items" in answer:
            assert len(answer["items"]) <= 500
    elif status == 200 and "pcap" in kind and body:
        path = one.directory / "answer"
        path.write_bytes(body)
        with CaptureFile(path) as file:
            for _ in file.batches():
                pass


def _path(keys: list[str], rng: random.Random) -> tuple[str, list[str]]:
    """Return a path, and the names of the parameters that its route has."""
    path, names = rng.choice(_routes()) if rng.random() < 0.95 else (rng.choice(_OTHER_PATHS), [])
    path = path.replace("{key}", rng.choice(keys) if rng.random() < 0.8 else quote(rng.choice(_WORDS)))
    path = path.replace("{container}", _value("container", rng))
    if rng.random() < 0.05:
        at = rng.randrange(len(path) + 1)
        path = path[:at] + quote_from_bytes(rng.randbytes(2)) + path[at:]
    return path, names


def _query(names: list[str], rng: random.Random) -> bytes:
    if rng.random() < 0.02:
        return rng.randbytes(rng.choice((1, 20, 9000)))
    chosen = rng.sample(names, rng.randrange(min(len(names), 4) + 1))
    if rng.random() < 0.05:
        chosen += rng.choices((*names, *_OTHER_NAMES), k=2)
    return "&".join(f"{quote(name)}={_value(name, rng)}" for name in chosen).encode()


def _value(name: str, rng: random.Random) -> str:
    match rng.randrange(20):
        case 0:
            return quote_from_bytes(rng.randbytes(3))
        case 1:
            return str(rng.getrandbits(rng.choice((8, 52, 64))))
        case 2 | 3:
            return quote(rng.choice(_WORDS))
        case _:
            return quote(rng.choice(_USUAL.get(name, _WORDS)))


def _headers(rng: random.Random) -> list[tuple[bytes, bytes]]:
    if rng.random() < 0.8:
        return [(b"host", b"localhost")]
    return rng.sample(_HEADERS, rng.randint(1, 4))
