"""Runs `sensor doctor` and looks up its findings, for the tests of the doctor."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.rules.commands import sensor

Findings = dict[str, dict[str, Any]]


def sh(command: str) -> None:
    """Run a shell command."""
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)


def doctor(*arguments: object) -> tuple[int, Findings]:
    """Run the doctor; return its exit code and the worst finding of each check."""
    done = sensor("doctor", "--json", *arguments)
    assert "Traceback" not in done.err
    return done.code, by_check(done.objects[0]["findings"])


def by_check(findings: list[dict[str, Any]]) -> Findings:
    """Return the worst finding of each check."""
    order = ("ok", "note", "warning", "error")
    return {one["check"]: one for one in sorted(findings, key=lambda one: order.index(one["level"]))}


def levels(findings: Findings, *checks: str) -> list[str]:
    """Return the levels of the findings of these checks; ``-`` for a check without any."""
    return [findings[check]["level"] if check in findings else "-" for check in checks]
