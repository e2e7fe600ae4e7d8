"""Output of ``sensor read``: matches as lines of text, or as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.explain_block import explained
from sensor.evidence.payload_memo import PayloadMemo
from sensor.match_objects import match_objects
from sensor.model import Match, Rule
from sensor.native.lines import format_lines, packed_words
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.locate import locate_each
from sensor.text import UNKNOWN_POSITION, printable_bytes, shown, to_json


def json_text(block: EvidenceBlock) -> str:
    """Return a line of JSON for each match of a block, and for each item that has none."""
    found = (one for item in explained(block, block.http) for one in match_objects(item, str(item.interface)))
    return "".join(f"{to_json(one)}\n" for one in found)


class MatchText:
    """Matches as lines for people to read."""

    def __init__(self) -> None:
        self._words = PayloadMemo(_words)

    def of(self, block: EvidenceBlock) -> str:
        """Return a line for each match of a block, and for each item that has none."""
        lines = len(block.rules) + int((block.items["matches"] == 0).sum())
        return format_lines(block.items, self._words.of(block, block.http), lines)


def _words(rules: Sequence[Rule], payload: bytes, http: HttpReading) -> bytes:
    if not rules:
        return packed_words(f"{'flow':<40}".encode("ascii"), b"")
    found = locate_each(rules, payload, http)
    return b"".join([packed_words(_label(match), _text(match, payload)) for match in found])


def _text(match: Match, payload: bytes) -> bytes:
    matched = match.matched(payload)
    return f"({UNKNOWN_POSITION})".encode("ascii") if matched is None else printable_bytes(matched)


def _label(match: Match) -> bytes:
    rule = match.rule
    return _padded(rule.rule_class, rule.rule_id, rule.name, match.version)


@lru_cache(maxsize=4096)  # few rules make most matches
def _padded(rule_class: str, rule_id: int, name: str, version: str | None) -> bytes:
    label = f"{rule_class} {rule_id} {name}"
    return f"{shown(f'{label} {version}' if version else label):<40}".encode()
