"""Upkeep of the evidence: finish files, enforce retention. Runs in the supervisor."""

from __future__ import annotations

import time
from collections.abc import Callable

from sensor.config.settings import Settings
from sensor.evidence.clock_trust import read_clock
from sensor.evidence.retention import Limits, Retention
from sensor.evidence.writer import EvidenceWriter

RETENTION_S = 2.0


class Upkeep:
    """Timed chores for the evidence of one writer."""

    def __init__(
        self, settings: Settings, writer: EvidenceWriter, on_deleted: Callable[[list[str]], object]
    ) -> None:
        """Prepare; ``on_deleted`` is called with the names of deleted files."""
        self._writer = writer
        limits = Limits(settings.retain_days, settings.retain_gib, settings.retain_free_percent)
        self.retention = Retention(writer.directory, limits, on_deleted)
        self._retention_s = time.monotonic()

    def tick(self, now_ns: int) -> None:
        """Do what is due; call this several times per second with the wall-clock time."""
        self._writer.tick(now_ns)
        if time.monotonic() >= self._retention_s:
            self._retention_s = time.monotonic() + RETENTION_S
            self.retention.enforce(read_clock())
