"""The files that a hold is to keep, and the holds in force. Runs in ``sensor evidence`` and in the API."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Literal

from sensor.errors import EvidenceError
from sensor.evidence.conversation_search import ConversationSearch
from sensor.evidence.holds import HoldEntry, reading_holds
from sensor.evidence.search import EvidenceSearch, Query


def files_with(index: EvidenceSearch, query: Query) -> dict[int, tuple[str, ...]]:
    """Return the names of the files that have the evidence of a query now, by device.

    Those with the other packets of its conversations are among them.
    """
    files: dict[int, set[str]] = {}
    conversations: dict[tuple[int, int], None] = {}
    for stored in index.iterate(query):
        files.setdefault(stored.devid, set()).add(stored.path.name)
        if stored.conversation:
            conversations[stored.devid, stored.conversation] = None
    search = ConversationSearch(index.directory)
    for devid, number in conversations:
        if conversation := search.of_device(devid, number):
            files[devid].update(one.path.name for one in conversation.packets)
    return {devid: tuple(sorted(names)) for devid, names in files.items()}


def new_name() -> str:
    """Return the name of a new hold: the day, and a number that no other hold of the day has."""
    return f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}"


def in_words(query: Query) -> str:
    """Return the filters of a query, as the journal has them."""
    return ", ".join(f"{key}={value}" for key, value in query.__dict__.items() if value is not None)


def entry_now(
    action: Literal["hold", "release"],
    name: str,
    by: str,
    reason: str,
    query: str = "",
    files: tuple[str, ...] = (),
) -> HoldEntry:
    """Return an entry of the journal that is made now."""
    return HoldEntry(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", action, name, by, reason, query, files)


def holds_in_force(index: EvidenceSearch) -> list[tuple[int, HoldEntry]]:
    """Return each hold with the device it is of; one that keeps files of two devices is there twice.

    Raises:
        EvidenceError: a journal cannot be read.
    """
    found: list[tuple[int, HoldEntry]] = []
    for devid in index.devices():
        try:
            with reading_holds(index.directory / str(devid), locked=False) as holds:
                found += [(devid, hold) for hold in holds.values()]
        except OSError as error:
            raise EvidenceError(f"the holds of device {devid} cannot be read: {error.strerror}") from error
    return found
