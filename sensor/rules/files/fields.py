"""The fields of a rule, in one table from which both the loader and the JSON Schema work.

Used when rules are loaded or checked, in any process that does so.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple


class RuleField(NamedTuple):
    """One field of a rule, and the values it may hold."""

    expected: str
    """The allowed values in words; completes "expected …" in messages."""
    schema: dict[str, Any]
    """A JSON Schema that uses only ``type``, ``minLength``, ``minimum``, ``maximum`` and ``pattern``.

    The type is string, integer or boolean.
    """
    description: str
    """The meaning of the field."""

    def accepts(self, value: object) -> bool:
        """Return True if ``value``, as ``json`` parses it, satisfies the schema."""
        if isinstance(value, str) and self.schema["type"] == "string":
            long_enough = len(value) >= self.schema.get("minLength", 0)
            pattern = self.schema.get("pattern", "(?s:.*)")  # with $ alone, a final newline would pass
            return long_enough and re.fullmatch(pattern, value) is not None
        if self.schema["type"] == "boolean":
            return isinstance(value, bool)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and self.schema["type"] == "integer":
            return bool(self.schema["minimum"] <= value <= self.schema["maximum"])
        return False


_NAME = {"type": "string", "minLength": 1}
_TEXT = {"type": "string"}
_FLAG = {"type": "integer", "minimum": 0, "maximum": 1}

RULE_ID = RuleField(
    "a decimal number from 1 to 999999999, without leading zeros",
    {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"},
    "unique over all five files",
)
PRIORITY = RuleField(
    "a number", {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}, "accepted and not used"
)

FIELDS = {
    "type": RuleField("a non-empty string", _NAME, "the kind of thing a match names"),
    "name": RuleField("a non-empty string", _NAME, "the thing a match names"),
    "regex": RuleField(
        "a non-empty string",
        _NAME,
        "PCRE on bytes: caseless, dot does not match a newline, not multiline, not UTF",
    ),
    "protocol": RuleField(
        '"tcp" or "udp"',
        {"type": "string", "pattern": "^([tT][cC][pP]|[uU][dD][pP])$"},
        "the transport; absent: any",
    ),
    "port": RuleField(
        "a number from 0 to 65535",
        {"type": "integer", "minimum": 0, "maximum": 65535},
        "source or destination port; absent or 0: any",
    ),
    "is_http": RuleField("0 or 1", _FLAG, "1: only payloads that look like HTTP"),
    "part": RuleField(
        '"head", "body" or "total"',
        {"type": "string", "pattern": "^(head|body|total)$"},
        "which part of an HTTP payload the regex sees; absent: total; without is_http it has no effect",
    ),
    "decode": RuleField(
        '"url"',
        {"type": "string", "pattern": "^url$"},
        "the regex also sees its part of the HTTP payload percent-decoded, once and twice",
    ),
    "version": RuleField("a string", _TEXT, "a fixed version; absent: the text of group 1"),
    "vendor": RuleField("a string", _TEXT, "the vendor of a device"),
    "os": RuleField("a string", _TEXT, "the operating system that a match also names"),
    "desc": RuleField("a string", _TEXT, "free text"),
    "context": RuleField(
        "true or false",
        {"type": "boolean"},
        "true: a match also keeps its conversation; false: it does not; absent: the setting context decides",
    ),
    "deleted": RuleField("0 or 1", _FLAG, "1: the rule is skipped"),
}

REQUIRED = ("type", "name", "regex")
LABELS = ("type", "name", "version", "vendor", "os")
"""The fields that are shown with each match."""
