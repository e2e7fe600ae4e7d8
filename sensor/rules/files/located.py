"""JSON whose objects know the lines of their keys, so that a fault can be found in its file.

Used when rules are loaded or checked, in whichever process does that.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"(?P<key>\s*:)?|(?P<open>\{)|(?P<close>\})|(?P<line>\n)', re.DOTALL)


class Entry(NamedTuple):
    """A key of an object, its value, and the line the key stands on."""

    key: str
    value: object
    line: int


class Object(tuple[Entry, ...]):
    """A JSON object: its entries in file order, duplicates included."""

    __slots__ = ()


def loads(text: str) -> object:
    """Parse JSON text; objects come as `Object`.

    Raises ``ValueError`` (`json.JSONDecodeError` where the place is known) or
    ``RecursionError`` where the text is not JSON that can be read.
    """
    json.loads(text)
    lines = iter(_key_lines(text))

    def locate(pairs: list[tuple[str, object]]) -> Object:
        return Object(Entry(key, value, line) for (key, value), line in zip(pairs, next(lines), strict=True))

    return json.loads(text, object_pairs_hook=locate)


def _key_lines(text: str) -> list[list[int]]:
    """List the lines of each object's keys, the objects in the order in which they close, as parsed."""
    closed: list[list[int]] = []
    opened: list[list[int]] = []
    line = 1
    for token in _TOKEN.finditer(text):
        if token["open"]:
            opened.append([])
        elif token["close"]:
            closed.append(opened.pop())
        elif token["key"]:
            opened[-1].append(line)
            line += token["key"].count("\n")
        elif token["line"]:
            line += 1
    return closed
