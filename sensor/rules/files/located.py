"""Parse JSON and keep the line of each key, so that faults can name it.

Used when rules are loaded or checked, in any process that does so.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

# Possessive repeats: the others remember each character of a long text, in a hundred bytes.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"(?P<key>\s*:)?|(?P<open>\{)|(?P<close>\})|(?P<line>\n)', re.DOTALL)


class Entry(NamedTuple):
    """A key of an object, its value, and the line of the key."""

    key: str
    value: object
    line: int


class Object(tuple[Entry, ...]):
    """A JSON object: its entries in file order, including duplicate keys."""

    __slots__ = ()


def loads(text: str) -> object:
    """Parse JSON text; objects are returned as `Object`.

    Raises:
        ValueError: The text is not valid JSON; a `json.JSONDecodeError` if the position is known.
        RecursionError: The text is nested too deeply.
    """
    json.loads(text)
    lines = iter(_key_lines(text))

    def locate(pairs: list[tuple[str, object]]) -> Object:
        return Object(Entry(key, value, line) for (key, value), line in zip(pairs, next(lines), strict=True))

    return json.loads(text, object_pairs_hook=locate)


def _key_lines(text: str) -> list[list[int]]:
    """Return the lines of each object's keys; objects are in the order in which they close."""
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
