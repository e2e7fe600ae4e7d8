"""Rules as the index keeps them, so that a match can be explained after the rule files have changed.

Runs where evidence is written or searched.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache

from sensor.model import Rule
from sensor.rules.engine.http_payload import HttpReading


def rule_text(rule: Rule) -> str:
    """Return all fields of a rule as JSON."""
    return json.dumps(asdict(rule))


@lru_cache(4096)
def parse_rule(text: str) -> Rule:
    """Return the rule of a `rule_text`.

    Raises:
        ValueError, TypeError: the text is something else.
    """
    return Rule(**json.loads(text))


def http_text(http: HttpReading) -> str:
    """Return the beginnings of HTTP payloads as JSON; each byte is one character."""
    return json.dumps([beginning.decode("latin-1") for beginning in http.beginnings])


@lru_cache(16)
def parse_http(text: str) -> HttpReading:
    """Return the definition of HTTP of an `http_text`."""
    return HttpReading(tuple(beginning.encode("latin-1") for beginning in json.loads(text)))
