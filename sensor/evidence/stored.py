"""Stored evidence as the index describes it, and its packets. Runs in the API process and in the commands."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

from sensor.errors import EvidenceError
from sensor.evidence.evidence_file import open_evidence
from sensor.evidence.pcap import Record, read_record
from sensor.model import FiveTuple, Role, Rule, vlan_ids
from sensor.rules.engine.budget import Budget
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.locate import locate_each


class StoredMatch(NamedTuple):
    """A rule as it was when it matched, and where in the payload it matched."""

    rule_class: str
    rule_id: int
    type: str
    name: str
    version: str | None
    vendor: str | None
    os: str | None
    start: int | None
    end: int | None
    """Byte offsets in the payload; None if the packet can no longer be read, or the match was not located."""


class Stored(NamedTuple):
    """An item of evidence as the index describes it."""

    key: str
    """Identifies the item for as long as it is kept; can be used in a URL."""
    devid: int
    time_us: int
    path: Path
    """The final name of its file."""
    offset: int
    """Offset of its record in the file."""
    caplen: int
    wirelen: int
    linktype: int
    interface: str
    five_tuple: FiveTuple
    vlan: tuple[int, ...]
    """Tag control information of each VLAN tag, outer tag first."""
    payload_start: int
    payload_end: int
    rules: tuple[Rule, ...]
    """The rules that matched, as they were then."""
    incomplete: bool
    """True if the search of the payload was cut for its cost, so that more rules may match."""
    http: HttpReading
    """The definition of HTTP that they were matched with."""
    digest: str
    """Digest of their files; empty if unknown."""
    role: Role
    conversation: int | None
    """The number of its conversation, if it is in one."""

    @property
    def vlan_ids(self) -> list[int]:
        """The VLAN id of each tag, outer tag first."""
        return vlan_ids(self.vlan)

    def matches(self, frame: bytes | None, budget: Budget | None = None) -> list[StoredMatch]:
        """Return where each rule matched, given the frame; None if the frame cannot be read any more.

        Matches that cannot be located within the ``budget`` have unknown positions.
        """
        if frame is None:
            return [_stored_match(rule, rule.version, None, None) for rule in self.rules]
        payload = frame[self.payload_start : self.payload_end]
        located = locate_each(self.rules, payload, self.http, budget)
        return [_stored_match(match.rule, match.version, match.start, match.end) for match in located]


def _stored_match(rule: Rule, version: str | None, start: int | None, end: int | None) -> StoredMatch:
    return StoredMatch(
        rule.rule_class, rule.rule_id, rule.type, rule.name, version, rule.vendor, rule.os, start, end
    )


class StoredRecords:
    """Reads the records of stored evidence; keeps the last file open until it is closed."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: BinaryIO | None = None

    def read(self, stored: Stored) -> Record:
        """Read the record of an item from its file.

        Raises:
            EvidenceError: the file is gone or cannot be read, or has another packet there.
        """
        try:
            if self._file is None or self._path != stored.path:
                self.close()
                self._file, self._path = open_evidence(stored.path), stored.path
            record = read_record(self._file, stored.offset, stored.caplen)
        except FileNotFoundError as error:
            raise EvidenceError(f"{stored.path} no longer exists, so the packet is gone") from error
        except OSError as error:
            raise EvidenceError(f"{stored.path} cannot be read: {error.strerror}") from error
        if record is None or (record.time_us, record.wirelen) != (stored.time_us, stored.wirelen):
            raise EvidenceError(
                f"{stored.path} does not have the indexed packet at byte {stored.offset};"
                " to find out more: sensor evidence verify"
            )
        return record

    def matches(self, stored: Stored, budget: Budget) -> list[StoredMatch]:
        """Return where each rule matched; without positions if the packet can no longer be read."""
        if not stored.rules:
            return []
        try:
            frame = self.read(stored).frame
        except EvidenceError:
            frame = None
        return stored.matches(frame, budget)

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
        self._file = None
