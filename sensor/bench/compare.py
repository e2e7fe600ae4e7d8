"""``sensor bench compare``: which figures of two results differ by more than their repeats do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sensor.errors import SensorError

SPREAD = {"median", "least", "most"}
SMALLEST_CHANGE = 0.02
"""Changes below are none, however steady the repeats were."""
_WHERE = ("cpu", "cpus", "kernel", "python")
_NAMES = ("traffic", "workers", "kind", "reader", "capture")


class Change(NamedTuple):
    """A figure in both results."""

    name: str
    before: float
    after: float
    is_beyond_noise: bool

    @property
    def ratio(self) -> float:
        """How many times what it was."""
        return self.after / self.before if self.before else float("inf")


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Compare all figures with repeats that both have."""
    mine, theirs = dict(_figures(before)), dict(_figures(after))
    return [_change(name, mine[name], theirs[name]) for name in mine if name in theirs]


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Name what makes two results hard to compare."""
    for name in _WHERE:
        then, now = (result.get("machine", {}).get(name) for result in (before, after))
        if then != now:
            yield f"{name} was {then}, is {now}"
    for which, result in (("first", before), ("second", after)):
        for warning in result.get("warnings", ()):
            yield f"{which}: {warning}"
        if any(spread["least"] == spread["most"] for _, spread in _figures(result)):
            yield f"{which}: figures without repeats or spread; how noisy they are is not known"


def load(path: Path) -> dict[str, Any]:
    """Read what a measurement printed with --json.

    Raises:
        SensorError: It is nothing of the kind.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SensorError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(result, dict) or not any(_figures(result)):
        raise SensorError(f"{path}: no figures with a spread in it; write it by sensor bench ... --json")
    return result


def _figures(found: object, name: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """Give every figure with repeats, by the names that lead to it."""
    if isinstance(found, dict):
        if found.keys() == SPREAD:
            yield name.removesuffix("_spread"), found
            return
        for key, value in found.items():
            yield from _figures(value, f"{name} {key}".strip().replace("_spread ", " "))
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from _figures(value, f"{name} {_label(value, number)}")


def _label(row: object, number: int) -> str:
    if not isinstance(row, dict):
        return str(number)
    words = [f"{row[key]} {key}" if isinstance(row[key], int) else row[key] for key in _NAMES if key in row]
    return " ".join(words) or str(number)


def _change(name: str, before: dict[str, float], after: dict[str, float]) -> Change:
    """What changed beyond noise: the repeats do not even touch, and it is not a trifle."""
    apart = before["most"] < after["least"] or after["most"] < before["least"]
    moved = abs(after["median"] - before["median"]) > SMALLEST_CHANGE * abs(before["median"])
    return Change(name, before["median"], after["median"], apart and moved)
