"""The JSON Schema of a rule file, for editors. It is made from the table that the loader uses.

Runs in ``sensor rules schema``. A schema cannot express everything: ``sensor rules check`` also finds
regexes that cannot be decided, ids used in two files, and keys used twice in one object.
"""

from __future__ import annotations

from typing import Any

from sensor.rules.files.fields import FIELDS, PRIORITY, REQUIRED, RULE_ID, RuleField

_HTTP = {"properties": {"is_http": {"const": 1}}, "required": ["is_http"]}
_DELETED = {"properties": {"deleted": {"const": 1}}, "required": ["deleted"]}
_NOT_UDP = {"properties": {"protocol": {"not": {"pattern": "^[uU][dD][pP]$"}}}}


def rule_file_schema() -> dict[str, Any]:
    """Return the schema of a rule file of any class (JSON Schema, draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A rule file of sensor",
        "description": "One of service.json, device.json, os.json, midware.json and threat.json",
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": {
            "description": "The file's name gives the class, not this key",
            "type": "object",
            "properties": {
                "priority": _property(PRIORITY),
                "rules": {
                    "description": "Rules by id; " + RULE_ID.description,
                    "type": "object",
                    "propertyNames": RULE_ID.schema,
                    "additionalProperties": _rule_schema(),
                },
            },
            "required": ["rules"],
            "additionalProperties": False,
        },
    }


def _rule_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _property(field) for name, field in FIELDS.items()},
        "required": list(REQUIRED),
        "additionalProperties": False,
        "if": {"not": _DELETED},
        "then": {"if": _HTTP, "then": _NOT_UDP, "dependentSchemas": {"decode": _HTTP}},
    }


def _property(field: RuleField) -> dict[str, Any]:
    return {"description": f"{field.description} ({field.expected})", **field.schema}
