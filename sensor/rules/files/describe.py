"""Rules and hits as the ``sensor rules`` commands print them: JSON objects, and words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from sensor.model import Match, Rule
from sensor.protocols import RULE_PROTOCOLS
from sensor.rules.files.load import Fault
from sensor.rules.prefilter.prefix import Prefix
from sensor.rules.regex.charset import LETTERS
from sensor.text import printable

_PROTOCOL_NAMES = {number: name for name, number in RULE_PROTOCOLS.items()}


def rule_object(rule: Rule) -> dict[str, Any]:
    """Return all that a rule says, by the names of the rule files; None where it says nothing."""
    return {
        "rule": rule.rule_id,
        "class": rule.rule_class,
        "type": rule.type,
        "name": rule.name,
        "regex": rule.regex,
        "protocol": _PROTOCOL_NAMES[rule.protocol] if rule.protocol else None,
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
        words.append(_PROTOCOL_NAMES[rule.protocol])
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


def prefix_words(prefix: Prefix) -> str:
    """Write a prefix as an expression on bytes; with the least length where that says more."""
    size = (prefix.mask.bit_length() + 7) // 8
    text = "".join(_spelled(prefix, size)) or "anything"
    return f"{text} of {prefix.length} bytes or more" if prefix.length > max(size, 1) else text


def _spelled(prefix: Prefix, size: int) -> Iterator[str]:
    """Write the first bytes of a prefix: letters of either case together, others one by one."""
    bytes_ = [(prefix.value >> shift & 0xFF, prefix.mask >> shift & 0xFF) for shift in range(0, 8 * size, 8)]
    for caseless, group in groupby(bytes_, key=lambda byte: byte[1] == 0xDF and byte[0] in LETTERS):
        if caseless:
            yield f"(?i:{''.join(chr(value).lower() for value, _ in group)})"
        else:
            yield from (_byte_words(value, mask) for value, mask in group)


def _byte_words(value: int, mask: int) -> str:
    """Write the bytes that have a value under a mask: one, any (a dot), or their ranges."""
    if mask == 0:
        return "."
    members = [byte for byte in range(256) if (byte ^ value) & mask == 0]
    if len(members) == 1:
        return re.escape(chr(value)) if 0x20 < value < 0x7F else f"\\x{value:02x}"
    ranges = []
    for _, run in groupby(enumerate(members), key=lambda numbered: numbered[1] - numbered[0]):
        ends = [byte for _, byte in run]
        ranges.append(f"\\x{ends[0]:02x}-\\x{ends[-1]:02x}" if len(ends) > 1 else f"\\x{ends[0]:02x}")
    return f"[{''.join(ranges)}]"
