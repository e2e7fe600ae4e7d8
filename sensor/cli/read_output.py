"""Output of ``sensor read``: matches as lines of text, or as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.explain_block import explained
from sensor.evidence.payload_memo import PayloadMemo
from sensor.match_objects import match_objects
from sensor.model import Match, Rule
from sensor.native.lines import format_lines, packed_words
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.locate import locate_each
from sensor.text import UNKNOWN_POSITION, printable, shown, to_json


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
        return packed_words(f"{'flow':<40}", "")
    found = locate_each(rules, payload, http)
    return b"".join([packed_words(f"{shown(_label(match)):<40}", _text(match, payload)) for match in found])


def _text(match: Match, payload: bytes) -> str:
    matched = match.matched(payload)
    return f"({UNKNOWN_POSITION})" if matched is None else printable(matched)


def _label(match: Match) -> str:
    label = f"{match.rule.rule_class} {match.rule.rule_id} {match.rule.name}"
    return f"{label} {match.version}" if match.version else label
