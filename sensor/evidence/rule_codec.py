"""Rules as JSON, for another process that has to know what the rule numbers of a block mean.

Used by the supervisor, the event sender and the reindexing process. The reader checks every field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from sensor.evidence.message import MalformedMessageError
from sensor.model import RULE_CLASSES, Rule

_MOST_RULE_ID = 999_999_999
_NUMBERS, _TEXTS, _OPTIONAL_TEXTS = (
    ("rule_id", "port"),
    ("rule_class", "type", "name", "regex", "part"),
    ("version", "vendor", "os", "desc"),
)
_VALUES = {
    "rule_class": RULE_CLASSES,
    "part": ("head", "body", "total"),
    "decode": ("url", None),
    "protocol": (6, 17, None),
    "rule_id": range(1, _MOST_RULE_ID + 1),
    "port": range(1 << 16),
}
_NAMES = {field.name for field in fields(Rule)}


def encode_rules(rules: Sequence[Rule]) -> bytes:
    """Return rules as JSON. Surrogates, which are no characters, are replaced."""
    return json.dumps([_printable(asdict(rule)) for rule in rules], separators=(",", ":")).encode("ascii")


def encode_in_parts(rules: Sequence[Rule], part_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield rules as JSON, in parts; each with the number of its rules.

    A part has at most ``part_bytes`` bytes, unless one rule alone has more.
    """
    first = size = 0
    for number, rule in enumerate(rules):
        rule_bytes = len(encode_rules([rule]))
        if first < number and size + rule_bytes > part_bytes:
            yield number - first, encode_rules(rules[first:number])
            first, size = number, 0
        size += rule_bytes
    if first < len(rules):
        yield len(rules) - first, encode_rules(rules[first:])


def decode_rules(data: bytes | memoryview) -> list[Rule]:
    """Return the rules that `encode_rules` encoded.

    Raises:
        MalformedMessageError: this is something else, or a field has a value that no rule has.
    """
    try:
        objects = json.loads(bytes(data).decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError("rules that are not JSON") from error
    if not isinstance(objects, list):
        raise MalformedMessageError("rules that are not a list")
    return [_rule(one) for one in objects]


def _rule(values: Any) -> Rule:
    if not isinstance(values, dict) or values.keys() != _NAMES:
        raise MalformedMessageError("a rule with other fields")
    is_sound = (
        all(type(values[name]) is int for name in _NUMBERS)
        and all(_is_text(values[name]) for name in _TEXTS)
        and all(values[name] is None or _is_text(values[name]) for name in _OPTIONAL_TEXTS)
        and type(values["is_http"]) is bool
        and type(values["context"]) in (bool, type(None))
        and type(values["protocol"]) in (int, type(None))
        and type(values["decode"]) in (str, type(None))
        and all(values[name] in allowed for name, allowed in _VALUES.items())
    )
    if not is_sound:
        raise MalformedMessageError("a rule with a field that no rule has")
    return Rule(**values)


def _is_text(value: object) -> bool:
    return type(value) is str and value == _without_surrogates(value)


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _printable(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_surrogates(value) if isinstance(value, str) else value
        for name, value in values.items()
    }
