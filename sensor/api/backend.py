"""The index, rules and tokens behind the routes. Runs in the API process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from sensor.api.audit import AccessRecord
from sensor.api.rule_files import RuleFiles
from sensor.api.tokens import TokenFile
from sensor.errors import EvidenceError
from sensor.evidence.pcap import Record
from sensor.evidence.search import EvidenceSearch, Stored
from sensor.evidence.stored import StoredRecords

STATUS_S = 1.0
"""Time a status is reused, seconds: computing it opens every database."""


class Backend:
    """Everything the routes read."""

    def __init__(self, evidence: Path, rules: RuleFiles, download_max_bytes: int) -> None:
        self.index = EvidenceSearch(evidence)
        self.tokens = TokenFile(evidence)
        self.rules = rules
        self.download_max_bytes = download_max_bytes
        self._status: tuple[float, dict[str, Any]] = (0.0, {})

    def status(self) -> dict[str, Any]:
        """Return the status of the index, at most `STATUS_S` old."""
        until_s, status = self._status
        if time.monotonic() >= until_s:
            status = self.index.status()
            self._status = (time.monotonic() + STATUS_S, status)
        return status

    def require_complete_index(self) -> None:
        """Raise 503 while the index is being rebuilt: evidence may exist that it does not know yet."""
        index = self.status()["index"]
        if index["state"] != "ok":
            raise HTTPException(
                503,
                f"not found so far: the index is {index['state']}, {index['done']} of {index['total']} bytes",
                {"Retry-After": "10"},
            )

    def find(self, key: str) -> Stored:
        """Return the item with this key; raise 404 if there is none."""
        stored = self.index.get(key)
        if stored is None:
            self.require_complete_index()
            raise HTTPException(404, "no evidence has this key, or it was deleted")
        return stored

    def read(self, items: Sequence[Stored]) -> list[tuple[Stored, Record]]:
        """Return the items whose packets are still in their files; raise 410 if all are gone."""
        found = []
        reason = ""
        with closing(StoredRecords()) as records:
            for stored in items:
                try:
                    found.append((stored, records.read(stored)))
                except EvidenceError as error:
                    reason = str(error)
        if items and not found:
            raise HTTPException(410, reason)
        return found


# These are coroutines, like every dependency, because FastAPI runs plain functions in a thread.
async def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


async def _access_record(request: Request) -> AccessRecord:
    record: AccessRecord = request.state.access
    return record


UsesBackend = Annotated[Backend, Depends(_backend)]
UsesRecord = Annotated[AccessRecord, Depends(_access_record)]
