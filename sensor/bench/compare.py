"""Compare two results, figure by figure, and tell changes from noise. Runs in ``sensor bench compare``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sensor.errors import SensorError

SPREAD = {"median", "least", "most"}
SMALLEST_CHANGE = 0.02
"""Smaller changes are noise, however steady the repeats were."""
_WHERE = ("cpu", "cpus", "kernel", "python")
_NAMES = ("traffic", "workers", "kind", "reader", "capture")


class Change(NamedTuple):
    """A figure that both results have."""

    name: str
    before: float
    after: float
    is_beyond_noise: bool

    @property
    def ratio(self) -> float:
        """The new value in multiples of the old one."""
        return self.after / self.before if self.before else float("inf")


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Compare every figure with repeats that both results have."""
    old, new = dict(_figures(before)), dict(_figures(after))
    return [_change(name, old[name], new[name]) for name in old if name in new]


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield each reason why two results are hard to compare."""
    for name in _WHERE:
        then, now = (result.get("machine", {}).get(name) for result in (before, after))
        if then != now:
            yield f"{name} was {then}, is now {now}"
    for which, result in (("before", before), ("after", after)):
        for warning in result.get("warnings", ()):
            yield f"{which}: {warning}"
        if any(spread["least"] == spread["most"] for _, spread in _figures(result)):
            yield f"{which}: some figures have no spread, so their noise is unknown; measure without --quick"


def load(path: Path) -> dict[str, Any]:
    """Read a result that a measurement printed with --json.

    Raises:
        SensorError: the file cannot be read or holds no result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SensorError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(result, dict) or not any(_figures(result)):
        raise SensorError(f"{path}: not a result of a measurement; make one with sensor bench ... --json")
    return result


def _figures(found: object, name: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """Yield every figure with repeats and its name, put together from the keys that lead to it."""
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
    """Compare one figure; a change is beyond noise if the repeats do not overlap and it is not tiny."""
    apart = before["most"] < after["least"] or after["most"] < before["least"]
    moved = abs(after["median"] - before["median"]) > SMALLEST_CHANGE * abs(before["median"])
    return Change(name, before["median"], after["median"], apart and moved)
