"""The check of ``sensor doctor --selftest``: a marked packet through a sensor of its own."""

from __future__ import annotations

from collections.abc import Iterable

from sensor.config.settings import Settings
from sensor.errors import PrivilegeError, RulesError
from sensor.finding import Finding
from sensor.selftest.private_sensor import follow_privately


def selftest_finding(
    settings: Settings, command: list[str], patience_s: float, others: Iterable[Finding]
) -> Finding:
    """Send a packet through a private sensor, and return where it stops.

    The test is left out if ``others``, the findings of the other checks, have an error: they say more.
    """
    if any(one.level == "error" for one in others):
        return Finding(
            level="note", check="selftest", what="no packet was sent, because of the errors of other checks"
        )
    try:
        found = follow_privately(settings, command, patience_s)
    except (PrivilegeError, RulesError) as error:
        return Finding(
            level="warning",
            check="selftest",
            what=f"no packet was sent: {error}",
            why="nothing is known about the way of a packet",
        )
    failed = next((one for one in found if one.outcome == "failed"), None)
    if failed:
        return Finding(
            level="error",
            check="selftest",
            what=f"a packet through a sensor of its own stops at the stage {failed.stage.name.lower()}:"
            f" {failed.detail}",
            why="sensor run would not turn packets into evidence either",
            advice="docs/doctor.md says what each stage needs",
        )
    return Finding(level="ok", check="selftest", what="a packet passes every stage of a sensor of its own")
