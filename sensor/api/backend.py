"""The index, rules and tokens behind the routes. Runs in the API process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, HTTPException, Request

from sensor.api.audit import AccessRecord
from sensor.api.deadline import Deadline
from sensor.api.hold_keeper import HoldKeeper
from sensor.api.rule_files import RuleFiles
from sensor.api.tokens import TokenFile
from sensor.errors import EvidenceError
from sensor.evidence.conversation_search import ConversationSearch
from sensor.evidence.day_reader import never_ends
from sensor.evidence.pcap import Record
from sensor.evidence.search import EvidenceSearch, Stored
from sensor.evidence.stored import StoredRecords
from sensor.evidence.stored_conversation import StoredConversation

Found = TypeVar("Found")
STATUS_S = 1.0
"""Time a status is reused, seconds: computing it opens every database."""


class _StatusCache:
    """The last status of the index; one thread at a time computes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until_s = 0.0
        self._status: dict[str, Any] = {}

    def get(self, index: EvidenceSearch) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() >= self._until_s:
                self._status = index.status()
                self._until_s = time.monotonic() + STATUS_S
            return self._status


class Backend:
    """Everything the routes read, and the process that writes holds."""

    def __init__(self, evidence: Path, rules: RuleFiles, export_bytes: int, export_seconds: float) -> None:
        """Read from an evidence directory; a download has at most this many bytes, and lasts this long."""
        self.index = EvidenceSearch(evidence)
        self.conversations = ConversationSearch(evidence)
        self.tokens = TokenFile(evidence)
        self.rules = rules
        self.export_bytes, self.export_seconds = export_bytes, export_seconds
        self.hold_keeper: HoldKeeper | None = None
        """Writes down holds; None if this process was started by a user who may not."""
        self._status = _StatusCache()
        self._check: Callable[[], None] = never_ends

    def until(self, deadline: Deadline) -> Backend:
        """Return the same for one request, whose queries end at its deadline."""
        backend = copy(self)
        backend.index = EvidenceSearch(self.index.directory, deadline.check)
        backend.conversations = ConversationSearch(self.index.directory, deadline.check)
        backend._check = deadline.check
        return backend

    def status(self) -> dict[str, Any]:
        """Return the status of the index, at most `STATUS_S` old."""
        return self._status.get(self.index)

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

    def find_conversation(self, key: str, devid: int | None) -> StoredConversation:
        """Return the conversation that a key names; raise 404 without one, and 409 if there are several."""
        found = self.conversations.find(key, devid)
        if not found:
            self.require_complete_index()
            raise HTTPException(404, "no conversation has this number, nor a packet with this key or time")
        if len(found) > 1:
            names = ", ".join(f"{one.number} of devid {one.devid}" for one in found[:10])
            raise HTTPException(409, f"several conversations have this name; choose one: {names}")
        return found[0]

    def checked(self, found: Iterable[Found]) -> Iterator[Found]:
        """Yield what is found, until the request ends."""
        for one in found:
            self._check()
            yield one

    def read(self, items: Sequence[Stored]) -> list[tuple[Stored, Record]]:
        """Return the items whose packets are still in their files; raise 410 if all are gone."""
        found = []
        reason = ""
        with closing(StoredRecords()) as records:
            for stored in items:
                self._check()
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
    return backend.until(request.state.visit.deadline)


async def _access_record(request: Request) -> AccessRecord:
    record: AccessRecord = request.state.visit.record
    return record


UsesBackend = Annotated[Backend, Depends(_backend)]
UsesRecord = Annotated[AccessRecord, Depends(_access_record)]
