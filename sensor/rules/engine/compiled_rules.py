"""Compiled rules as data: JSON, and Hyperscan's serialised databases. Runs where rules are made ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sensor.model import Rule
from sensor.native.batch_matcher import MOST_STEPS, Databases
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.scan import Decider, Screen
from sensor.rules.engine.stages import PARTS, Stage, Transport

_BITS = frozenset(1 << bit for bit in range(MOST_STEPS))


def dump(matcher: Matcher) -> tuple[dict[str, Any], list[bytes]]:
    """Return a matcher's structure, for JSON, and its databases: two per decider, empty without rules."""
    deciders: dict[Decider, int] = {}

    def number_of(decider: Decider) -> int:
        return deciders.setdefault(decider, len(deciders))

    def shape_of(stage: Stage) -> dict[str, Any]:
        called = [[bit, part, number_of(decider)] for bit, part, decider in stage.deciders]
        return {"screen": number_of(stage.screen.fast_patterns), "deciders": called}

    transports = [
        {"plain": number_of(one.plain), "http": shape_of(one.http), "decoded": shape_of(one.decoded)}
        for one in matcher.transports
    ]
    shape = {
        "transports": transports,
        "deciders": [decider.ids for decider in deciders],
        "missed": [matcher.rules.index(rule) for rule in matcher.missed],
        "size_bytes": matcher.size_bytes,
    }
    return shape, [serial or b"" for decider in deciders for serial in decider.databases]


def restore(
    rules: tuple[Rule, ...], http: HttpReading, shape: dict[str, Any], databases: Sequence[bytes]
) -> Matcher:
    """Return the matcher of which `dump` returned ``shape`` and ``databases``.

    Raises:
        KeyError, IndexError, TypeError, ValueError: The structure is damaged.
        SensorError: A database is damaged, or of another release or processor.
    """
    _check(shape, len(rules))
    pairs = zip(databases[::2], databases[1::2], strict=True)
    deciders = [
        Decider.restored(ids, Databases(whole or None, sliced or None))
        for ids, (whole, sliced) in zip(shape["deciders"], pairs, strict=True)
    ]

    def stage_of(one: dict[str, Any]) -> Stage:
        called = [
            (int(bit), PARTS[PARTS.index(part)], deciders[number]) for bit, part, number in one["deciders"]
        ]
        return Stage(Screen(deciders[one["screen"]]), called)

    tcp, udp, other = (
        Transport(deciders[one["plain"]], stage_of(one["http"]), stage_of(one["decoded"]))
        for one in shape["transports"]
    )
    matcher = Matcher.restored(rules, http, (tcp, udp, other), int(shape["size_bytes"]), shape["missed"])
    matcher.batch_matcher  # noqa: B018 - load the databases now, to see whether they are usable
    return matcher


def _check(shape: dict[str, Any], rules: int) -> None:
    """Check the numbers in a structure: Python would take negative ones, and C would take large ones.

    Raises:
        KeyError, TypeError: Parts are missing.
        ValueError: A number is out of range.
    """
    deciders = range(len(shape["deciders"]))
    indices = range(rules)
    for transport in shape["transports"]:
        used = [transport["plain"]]
        for stage in (transport["http"], transport["decoded"]):
            if len(stage["deciders"]) > MOST_STEPS:
                raise ValueError("too many deciders")
            for bit, _, number in stage["deciders"]:
                used.append(number)
                if type(bit) is not int or bit not in _BITS:
                    raise ValueError("a bit is out of range")
            if stage["screen"] not in deciders:
                raise ValueError("a screen is missing")
        for number in used:
            if number not in deciders or any(index not in indices for index in shape["deciders"][number]):
                raise ValueError("a rule or a decider is missing")
    if any(index not in indices for index in shape["missed"]):
        raise ValueError("a missed rule is missing")
