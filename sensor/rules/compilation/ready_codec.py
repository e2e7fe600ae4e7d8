"""Compiled rules as bytes: JSON, tables and Hyperscan's serialised databases.

The process that compiles rules sends them in this form, and the cache keeps them. Nothing in it is a program
of Python's. It is checked before it is used: a process that compiled hostile rules may have been taken over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sensor import abi
from sensor.capture.plan_maps import FirstStates, KernelPlan
from sensor.errors import SensorError
from sensor.model import RULE_CLASSES, Rule
from sensor.protocols import RULE_PROTOCOLS
from sensor.rules.engine.compiled_rules import dump, restore
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.stages import PARTS
from sensor.rules.files.rule_fault import Fault, FaultyRulesError
from sensor.rules.files.rule_set import RuleSet
from sensor.rules.files.rule_sources import path_of
from sensor.rules.prefilter.plan import PORTS
from sensor.rules.progress import MOST_RULE_ID

_SIZE_BYTES = 8
"""The size of the JSON, before it; the blobs follow."""
_FIELDS = {field.name for field in fields(Rule)}
_OPTIONAL_TEXTS = ("version", "vendor", "os", "desc")
_MOST_ROWS = abi.STATE_ROW_UNIT << 17
_MOST_PREFIXES = 1 << 24
"""More than any plan has; tables of this size do not harm the kernel."""
_PROTOCOLS = (None, *RULE_PROTOCOLS.values())


class MalformedResultError(SensorError):
    """The bytes are no compiled rules."""


class Ready(NamedTuple):
    """A rule set, compiled for the matcher and for the kernel."""

    rules: RuleSet
    matcher: Matcher
    plan: KernelPlan
    """The packets that the kernel must pass on."""


def encode_ready(ready: Ready) -> bytes:
    """Return compiled rules as bytes."""
    shape, databases = dump(ready.matcher)
    plan = ready.plan
    blobs = [*(table.tobytes() for table in (plan.ports, plan.rows, plan.prefixes)), *databases]
    compiled = {
        "first_states": list(map(int, plan.first)),
        "merged_prefixes": int(plan.merged),
        "matcher": shape,
        "sizes": [len(blob) for blob in blobs],
    }
    return _framed(_set_object(ready.rules) | compiled, blobs)


def encode_rules(rules: RuleSet) -> bytes:
    """Return rules as bytes, without what is compiled from them."""
    return _framed(_set_object(rules))


def encode_refusal(faults: Sequence[Fault] | str, fine: int = 0) -> bytes:
    """Return why rules are refused: their faults, and the number of rules without any; or a text."""
    if isinstance(faults, str):
        return _framed({"refused": faults})
    return _framed({"refused": list(map(_fault_object, faults)), "fine": fine})


def decode_ready(content: bytes, directory: Path, http: HttpReading) -> Ready:
    """Return the rules that `encode_ready` encoded.

    Raises:
        FaultyRulesError: The rules were refused for their faults.
        MalformedResultError: The content is malformed, or of another release or processor.
    """
    values, rest = _unframed(content)
    rules = _rule_set(values, directory)
    try:
        ports, rows, prefixes, *databases = _split(rest, values["sizes"])
        plan = KernelPlan(
            FirstStates(*(_number(state, (1 << 32) - 1) for state in values["first_states"])),
            np.frombuffer(ports, np.uint32).reshape(2, PORTS),
            np.frombuffer(rows, np.uint32),
            np.frombuffer(prefixes, abi.PLAN_PREFIX),
            _number(values["merged_prefixes"], 1 << 32),
        )
        _require(len(plan.rows) <= _MOST_ROWS and len(plan.prefixes) <= _MOST_PREFIXES, "too large a plan")
        return Ready(rules, restore(rules.rules, http, values["matcher"], databases), plan)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, SensorError) as error:
        raise MalformedResultError(f"{type(error).__name__}: {error}") from error


def decode_rules(content: bytes, directory: Path) -> RuleSet:
    """Return the rules that `encode_rules` encoded.

    Raises:
        FaultyRulesError: The rules were refused for their faults.
        MalformedResultError: The content is malformed.
    """
    values, _ = _unframed(content)
    return _rule_set(values, directory)


def _framed(values: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    text = json.dumps(values).encode("ascii")
    return b"".join((len(text).to_bytes(_SIZE_BYTES, "little"), text, *blobs))


def _unframed(content: bytes) -> tuple[dict[str, Any], memoryview]:
    end = _SIZE_BYTES + int.from_bytes(content[:_SIZE_BYTES], "little")
    try:
        values = json.loads(content[_SIZE_BYTES:end])
    except (ValueError, RecursionError) as error:
        raise MalformedResultError(f"no JSON: {error}") from error
    if not isinstance(values, dict) or end > len(content):
        raise MalformedResultError("no JSON object")
    return values, memoryview(content)[end:]


def _split(blobs: memoryview, sizes: Sequence[int]) -> list[bytes]:
    found, start = [], 0
    for size in sizes:
        found.append(bytes(blobs[start : start + _number(size, len(blobs) - start)]))
        start += size
    _require(start == len(blobs), "the sizes are wrong")
    return found


def _set_object(rules: RuleSet) -> dict[str, Any]:
    return {
        "rules": [asdict(rule) for rule in rules],
        "digest": rules.digest,
        "faults": list(map(_fault_object, rules.faults)),
    }


def _fault_object(fault: Fault) -> dict[str, Any]:
    """Return a fault; its file is a name, since the same files may be named in several ways."""
    name = fault.path.name.removesuffix(".json")
    rule_class = name if name in RULE_CLASSES and fault.path.suffix else None
    return {"class": rule_class, **{k: v for k, v in asdict(fault).items() if k != "path"}}


def _rule_set(values: dict[str, Any], directory: Path) -> RuleSet:
    """Return the rules in a result.

    Raises:
        FaultyRulesError: There are none, but faults.
        MalformedResultError: The values are malformed.
    """
    try:
        if isinstance(values.get("refused"), list):
            faults = tuple(_fault_of(one, directory) for one in values["refused"])
            raise FaultyRulesError(faults, _number(values["fine"], 1 << 32))
        if "refused" in values:
            problem = _text(values["refused"])
            raise FaultyRulesError((Fault(directory, None, None, None, problem),))
        rules = tuple(map(_rule_of, values["rules"]))
        _require(len({rule.rule_id for rule in rules}) == len(rules), "two rules with the same id")
        faults = tuple(_fault_of(one, directory) for one in values["faults"])
        return RuleSet(rules, _text(values["digest"]), faults)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedResultError(f"{type(error).__name__}: {error}") from error


def _rule_of(values: dict[str, Any]) -> Rule:
    rule = Rule(**values)
    texts = [rule.type, rule.name, rule.regex]
    optional = [getattr(rule, name) for name in _OPTIONAL_TEXTS]
    is_right = (
        values.keys() == _FIELDS
        and all(isinstance(text, str) and text for text in texts)
        and all(text is None or isinstance(text, str) for text in optional)
        and isinstance(rule.is_http, bool)
        and isinstance(rule.context, bool | None)
        and _number(rule.rule_id, MOST_RULE_ID)
        and _number(rule.port, 65535) >= 0
        and (rule.protocol is None or type(rule.protocol) is int)
        and rule.protocol in _PROTOCOLS
        and rule.rule_class in RULE_CLASSES
        and rule.part in PARTS
        and rule.decode in (None, "url")
    )
    _require(is_right, "a field of a rule has another type or range")
    return rule


def _fault_of(values: dict[str, Any], directory: Path) -> Fault:
    rule_class, line = values["class"], values["line"]
    path = (
        directory if rule_class is None else path_of(directory, RULE_CLASSES[RULE_CLASSES.index(rule_class)])
    )
    rule_id, field = (None if values[key] is None else _text(values[key]) for key in ("rule_id", "field"))
    return Fault(
        path, None if line is None else _number(line, 1 << 32), rule_id, field, _text(values["problem"])
    )


def _number(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"expected a number up to {most}")
    return value


def _require(condition: object, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a text")
    return value
