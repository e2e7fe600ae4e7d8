"""Payloads to measure rules with, from a capture file or generated. Runs in ``sensor rules stats``."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np

from sensor.decode import decode
from sensor.errors import CaptureFileError
from sensor.files.capture_file import CaptureFile
from sensor.protocols import TCP, UDP
from sensor.rules.obstacles import Specimen

_WORDS = (
    "account",
    "article",
    "basket",
    "detail",
    "filter",
    "history",
    "market",
    "order",
    "page",
    "query",
    "zone",
)


def captured(path: Path) -> list[Specimen]:
    """Return every payload of a capture file.

    Raises:
        CaptureFileError: the file cannot be read, or no packet in it has a payload.
    """
    specimens = []
    with CaptureFile(path) as file:
        for batch in file.batches():
            packets = decode(batch)
            for index in np.flatnonzero(packets.payload_end > packets.payload_start).tolist():
                start, end = packets.payload_start.item(index), packets.payload_end.item(index)
                protocol = packets.protocol.item(index)
                ports = packets.sport.item(index), packets.dport.item(index)
                specimens.append(Specimen(bytes(batch.buffer[start:end]), protocol, *ports))
    if not specimens:
        raise CaptureFileError(f"{path}: no packet has a payload; use another capture")
    return specimens


def generated(count: int = 1000) -> list[Specimen]:
    """Return a harmless mix as on an office's uplink, the same at each call: web, mail, DNS."""
    rng = Random(1)  # noqa: S311 - the same mix at each call is the point
    kinds = (_request, _form, _page, _encrypted, _encrypted, _mail, _dns_query)
    return [kinds[number % len(kinds)](rng) for number in range(count)]


def _words(rng: Random, count: int, between: str = " ") -> str:
    return between.join(rng.choices(_WORDS, k=count))


def _head(rng: Random, first: str) -> str:
    return (
        f"{first}\r\nHost: www.{_words(rng, 1)}.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
        f"Accept: text/html\r\nCookie: session={rng.getrandbits(128):032x}\r\n"
    )


def _request(rng: Random) -> Specimen:
    query = f"{_words(rng, 1)}={_words(rng, 3, '%20')}&page={rng.randrange(100)}&{_words(rng, 1)}=%C3%A4"
    text = _head(rng, f"GET /{_words(rng, 3, '/')}?{query} HTTP/1.1") + "\r\n"
    return Specimen(text.encode(), TCP, rng.randrange(32768, 61000), 80)


def _form(rng: Random) -> Specimen:
    fields = "&".join(f"{_words(rng, 1)}={_words(rng, 4, '+')}" for _ in range(6))
    kind = f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(fields)}\r\n"
    text = _head(rng, f"POST /{_words(rng, 2, '/')} HTTP/1.1") + kind + "\r\n" + fields
    return Specimen(text.encode(), TCP, rng.randrange(32768, 61000), 80)


def _page(rng: Random) -> Specimen:
    body = f"<html><title>{_words(rng, 3)}</title><body><p>{_words(rng, 120)}</p></body></html>"
    text = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    return Specimen(text.encode(), TCP, 80, rng.randrange(32768, 61000))


def _encrypted(rng: Random) -> Specimen:
    body = rng.randbytes(rng.randrange(60, 1400))
    return Specimen(
        b"\x17\x03\x03" + len(body).to_bytes(2, "big") + body, TCP, 443, rng.randrange(32768, 61000)
    )


def _mail(rng: Random) -> Specimen:
    text = (
        f"From: {_words(rng, 1)}@example.org\r\nSubject: {_words(rng, 4)}\r\n\r\n{_words(rng, 60)}.\r\n.\r\n"
    )
    return Specimen(text.encode(), TCP, rng.randrange(32768, 61000), 25)


def _dns_query(rng: Random) -> Specimen:
    labels = ("www", _words(rng, 1), "example")
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    question = rng.randbytes(2) + bytes.fromhex("01000001000000000000") + name + bytes.fromhex("00010001")
    return Specimen(question, UDP, rng.randrange(32768, 61000), 53)
