"""The share of genuine attacks that are found beside a flood. Runs in ``sensor bench overload``, as root.

Office traffic with attacks from many hosts in it is sent at a moderate rate, alone and beside floods of
costly payloads from one source and from many.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from sensor.bench.effort import OverloadEffort, Step
from sensor.bench.flood import ORIGINS, Flood, FloodKind
from sensor.bench.flood_payloads import match_us, payload_with_matches, payload_without_match
from sensor.bench.machine import machine
from sensor.bench.overload_trial import OverloadRig, OverloadTrial, office_traffic
from sensor.bench.wire import private_wire
from sensor.capture.program import check_privileges
from sensor.config.loading import load_settings
from sensor.errors import SensorError
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.profile import PROFILES
from sensor.rules.files.load import load_rules

SENSOR = (sys.executable, "-m", "sensor")
OFFICE_PER_SECOND, ATTACK_EVERY = 3000, 50
"""Frames of the office, of which 60 per second are attacks."""
MATCHING_PER_SECOND, UNMATCHED_PER_SECOND = 2000, 12_000
"""Frames of the floods."""
ASKED = 0.95
"""Share of the attacks that have to be found, relative to the run without a flood."""
MOST_LATE_MS = 100.0
"""A sender that is later than this does not get the CPU time it needs."""


def measure(
    origins: Sequence[str],
    effort: OverloadEffort,
    step: Step,
    *,
    seed: int = 1,
    directory: Path | None = None,
    sensor: Sequence[str] = SENSOR,
) -> dict[str, Any]:
    """Send office traffic alone, and beside a flood of each kind from each of the ``origins``.

    Raises:
        PrivilegeError: the command does not run as root.
        SensorError: a sensor failed, or its rules find none of the attacks.
    """
    check_privileges()
    where = machine()
    step("building payloads")
    settings = load_settings({})
    matcher = Matcher(load_rules(settings.rules), PROFILES[settings.profile].http)
    kinds = _kinds(matcher, seed)
    step("generating office traffic")
    office = office_traffic(effort, OFFICE_PER_SECOND, ATTACK_EVERY, seed)
    floods = [Flood(kind, ORIGINS[origin]) for kind in kinds for origin in origins]
    with private_wire() as wire, TemporaryDirectory(prefix="sensor-bench-", dir=directory) as temporary:
        rig = OverloadRig(sensor, wire, Path(temporary), office, effort, seed)
        step("the office alone")
        alone = rig.run(None)
        if not alone.found:
            raise SensorError("the rules find none of the attacks; measure with other rules")
        trials = []
        for flood in floods:
            step(f"{flood.kind.name}, {flood.origin.name}")
            trials.append(rig.run(flood))
    return {
        "bench": "overload",
        "machine": where,
        "warnings": list(_warnings([alone, *trials])),
        "flood_seconds": effort.flood_s,
        "office_per_second": OFFICE_PER_SECOND,
        "attacks": len(office.attacks),
        "asked": ASKED,
        "kinds": [_kind(matcher, kind) for kind in kinds],
        "alone": _result(alone, alone.found),
        "rows": [
            {"kind": flood.kind.name, "origin": flood.origin.name, **_result(trial, alone.found)}
            for flood, trial in zip(floods, trials, strict=True)
        ],
    }


def _kinds(matcher: Matcher, seed: int) -> list[FloodKind]:
    rng = Random(seed)  # noqa: S311 - the same proposals for the same seed
    return [
        FloodKind("many matches", payload_with_matches(matcher), MATCHING_PER_SECOND),
        FloodKind("no match", payload_without_match(matcher, rng), UNMATCHED_PER_SECOND),
    ]


def _kind(matcher: Matcher, kind: FloodKind) -> dict[str, Any]:
    cost_us, matches = match_us(matcher, kind.payload)
    return {
        "kind": kind.name,
        "frames_per_second": kind.per_second,
        "match_us": round(cost_us, 1),
        "rules_matched": matches,
    }


def _result(trial: OverloadTrial, found_alone: int) -> dict[str, Any]:
    """Describe a trial."""
    counted, flood = trial.counters, trial.flood
    share = trial.found / found_alone
    return {
        "attacks_found": trial.found,
        "share_of_alone": round(share, 4),
        "is_met": share >= ASKED,
        "flood_frames": flood.frames if flood else 0,
        "flood_per_second": round(flood.per_second) if flood else 0,
        "flood_mbps": round(flood.octets * 8 / flood.seconds / 1e6, 1) if flood else 0.0,
        "lost": {"wire": trial.lost_on_wire, "ring": counted.submit_failed},
        "given_up": {
            "sampled": counted.sampled,
            "cut": counted.cut,
            "undecodable": counted.undecodable,
            "quarantined": counted.quarantined,
            "suppressed": counted.suppressed,
            "write_failed": counted.write_failed,
        },
        "restarts": counted.restarts,
        "index_left_rows_out": trial.left_rows_out,
        "costliest": trial.costliest,
        "logged": trial.logged,
        "office_per_second": round(trial.office.per_second),
        "office_late_ms": round(trial.office.late_ms, 1),
        "counters": counted.as_dict(),
    }


def _warnings(trials: Sequence[OverloadTrial]) -> Iterator[str]:
    """Yield the reasons why the figures may be worse than those of an idle machine."""
    late_ms = max(trial.office.late_ms for trial in trials)
    if late_ms > MOST_LATE_MS:
        yield f"frames of the office were sent up to {late_ms:.0f} ms too late"
    slowest = min(trial.flood.per_second / trial.flood.asked for trial in trials if trial.flood)
    if slowest < 0.95:
        yield f"floods were as slow as {slowest:.0%} of the rate asked for: no CPU time was left to send them"
