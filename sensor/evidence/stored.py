"""Stored evidence as the index describes it, and its packets. Runs in the API process and in the commands."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

from sensor.errors import EvidenceError
from sensor.evidence.evidence_file import open_evidence
from sensor.evidence.pcap import Record, read_record
from sensor.model import FiveTuple, vlan_ids


class StoredMatch(NamedTuple):
    """A rule as it was when it matched, and the byte range of the match in the payload."""

    rule_class: str
    rule_id: int
    type: str
    name: str
    version: str | None
    vendor: str | None
    os: str | None
    start: int
    end: int


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
    matches: tuple[StoredMatch, ...]

    @property
    def vlan_ids(self) -> list[int]:
        """The VLAN id of each tag, outer tag first."""
        return vlan_ids(self.vlan)


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

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
        self._file = None
