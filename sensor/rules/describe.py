"""Rules and hits as the ``sensor rules`` commands print them: JSON objects, and words."""

from __future__ import annotations

from typing import Any

from sensor.model import Match, Rule
from sensor.report import printable
from sensor.rules.load import Fault

_PROTOCOLS = {6: "tcp", 17: "udp"}


def rule_object(rule: Rule) -> dict[str, Any]:
    """Return all that a rule says, by the names of the rule files; None where it says nothing."""
    return {
        "rule": rule.rule_id,
        "class": rule.rule_class,
        "type": rule.type,
        "name": rule.name,
        "regex": rule.regex,
        "protocol": _PROTOCOLS[rule.protocol] if rule.protocol else None,
        "port": rule.port or None,
        "is_http": int(rule.is_http) or None,
        "part": rule.part if rule.is_http else None,
        "decode": rule.decode,
        "version": rule.version,
        "vendor": rule.vendor,
        "os": rule.os,
        "desc": rule.desc,
    }


def conditions(rule: Rule) -> str:
    """Say in a few words what a rule looks at: ``tcp, port 80, HTTP head, url-decoded``."""
    words = []
    if rule.protocol:
        words.append(_PROTOCOLS[rule.protocol])
    if rule.port:
        words.append(f"port {rule.port}")
    if rule.is_http:
        words.append("HTTP" if rule.part == "total" else f"HTTP {rule.part}")
    if rule.decode:
        words.append(f"{rule.decode}-decoded")
    return ", ".join(words) or "any payload"


def fault_object(fault: Fault) -> dict[str, Any]:
    """Return a fault by its parts."""
    return {
        "file": str(fault.path),
        "line": fault.line,
        "rule": fault.rule_id,
        "field": fault.field,
        "problem": fault.problem,
    }


def hit_object(hit: Match, payload: bytes) -> dict[str, Any]:
    """Return which rule hit a payload and where."""
    return {
        "rule": hit.rule.rule_id,
        "class": hit.rule.rule_class,
        "name": hit.rule.name,
        "start": hit.start,
        "end": hit.end,
        "version": hit.version,
        "text": printable(payload[hit.start : hit.end]),
    }


def hit_words(hit: Match, payload: bytes) -> str:
    """Say where a rule hit a payload, and which version it names: ``bytes 4-7 "1.2", version 1.2``."""
    version = f", version {hit.version}" if hit.version else ""
    return f'bytes {hit.start}-{hit.end} "{printable(payload[hit.start : hit.end])}"{version}'
