"""Rules and matches as JSON objects and as text. Runs in the ``sensor rules`` commands and in the API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from sensor.model import Match, Rule
from sensor.protocols import RULE_PROTOCOLS
from sensor.rules.files.rule_fault import Fault
from sensor.rules.prefilter.prefix import Prefix
from sensor.rules.regex.charset import LETTERS
from sensor.text import UNKNOWN_POSITION, printable

_PROTOCOL_NAMES = {number: name for name, number in RULE_PROTOCOLS.items()}


def rule_object(rule: Rule) -> dict[str, Any]:
    """Return all fields of a rule, named as in the rule files; None for fields that are not set."""
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
        "context": rule.context,
    }


def conditions(rule: Rule) -> str:
    """Return in a few words what a rule looks at: ``tcp, port 80, HTTP head, url-decoded``."""
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
    """Return the parts of a fault, ready for JSON."""
    return {
        "file": str(fault.path),
        "line": fault.line,
        "rule": fault.rule_id,
        "field": fault.field,
        "problem": fault.problem,
    }


def match_object(match: Match, payload: bytes) -> dict[str, Any]:
    """Return which rule matches a payload, and where, ready for JSON."""
    matched = match.matched(payload)
    return {
        "rule": match.rule.rule_id,
        "class": match.rule.rule_class,
        "name": match.rule.name,
        "start": match.start,
        "end": match.end,
        "version": match.version,
        "text": None if matched is None else printable(matched),
    }


def match_words(match: Match, payload: bytes) -> str:
    """Return where a rule matches a payload, and the version it names: ``bytes 4-7 "1.2", version 1.2``."""
    version = f", version {match.version}" if match.version else ""
    matched = match.matched(payload)
    if matched is None:
        return f"{UNKNOWN_POSITION}{version}"
    return f'bytes {match.start}-{match.end} "{printable(matched)}"{version}'


def prefix_words(prefix: Prefix) -> str:
    """Return a prefix as an expression on bytes, with the least length if that is longer."""
    size = (prefix.mask.bit_length() + 7) // 8
    text = "".join(_spelled(prefix, size)) or "anything"
    return f"{text} of {prefix.length} bytes or more" if prefix.length > max(size, 1) else text


def _spelled(prefix: Prefix, size: int) -> Iterator[str]:
    """Yield the first bytes of a prefix as text: caseless letters in groups, others one by one."""
    bytes_ = [(prefix.value >> shift & 0xFF, prefix.mask >> shift & 0xFF) for shift in range(0, 8 * size, 8)]
    for caseless, group in groupby(bytes_, key=lambda byte: byte[1] == 0xDF and byte[0] in LETTERS):
        if caseless:
            yield f"(?i:{''.join(chr(value).lower() for value, _ in group)})"
        else:
            yield from (_byte_words(value, mask) for value, mask in group)


def _byte_words(value: int, mask: int) -> str:
    """Return the bytes that have a value under a mask as text: one byte, a dot for any, or ranges."""
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
