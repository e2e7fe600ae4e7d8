"""The stages of ``sensor selftest``, in the order in which a packet passes them."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal, NamedTuple


class SelftestStage(IntEnum):
    """A stage; its value is the exit code if it is the first that fails."""

    CAPTURING = 11
    """The port is up, and a running sensor has its program attached to it."""
    SEEN = 12
    MATCHED = 13
    WRITTEN = 14
    INDEXED = 15
    SERVED = 16


class StageResult(NamedTuple):
    """The outcome of one stage."""

    stage: SelftestStage
    outcome: Literal["ok", "failed", "skipped"]
    detail: str
    """The observation, or the fault and its remedy."""


class StageFailure(Exception):  # noqa: N818 - it is an outcome, not an error of this program
    """A stage was not reached."""

    def __init__(self, stage: SelftestStage, detail: str) -> None:
        super().__init__(detail)
        self.stage, self.detail = stage, detail


def results(
    passed: dict[SelftestStage, str], failure: StageFailure | None, skipped: str = ""
) -> list[StageResult]:
    """Return the outcome of each stage; those without any were skipped, for a reason."""
    found = []
    for stage in SelftestStage:
        if failure and stage == failure.stage:
            found.append(StageResult(stage, "failed", failure.detail))
        elif stage in passed:
            found.append(StageResult(stage, "ok", passed[stage]))
        else:
            found.append(StageResult(stage, "skipped", skipped))
    return found
