"""The channel between the supervisor and the process that deletes evidence. Used by both.

Each message is one packet of a socket, with JSON: the configuration first, then reports the other way.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from sensor.evidence.file_name import parse_name
from sensor.evidence.message import MalformedMessageError
from sensor.evidence.retention import Deleted, LimitName, Limits, Space

MESSAGE_BYTES = 1 << 16
"""Maximum size of one message."""


class RetentionConfig(NamedTuple):
    """The configuration of the process."""

    directory: Path
    """The directory of the device."""
    limits: Limits

    def pack(self) -> bytes:
        """Return it as JSON."""
        return _CONFIG.dump_json(self)

    @classmethod
    def of(cls, data: bytes) -> RetentionConfig:
        """Return the configuration that `pack` packed."""
        return _CONFIG.validate_json(data)


class RetentionReport(NamedTuple):
    """The figures of the process since its start, and what it has deleted since its last report."""

    deleted: dict[LimitName, Deleted]
    failures: int
    space: Space
    names: list[str]

    def pack(self) -> bytes:
        """Return it as JSON."""
        return _REPORT.dump_json(self)

    @classmethod
    def of(cls, data: bytes) -> RetentionReport:
        """Return the report that `pack` packed.

        Raises:
            MalformedMessageError: this is something else.
        """
        try:
            report = _REPORT.validate_json(data)
        except ValidationError as error:
            raise MalformedMessageError("a report that is none") from error
        if not all(map(parse_name, report.names)):
            raise MalformedMessageError("a report with names that are not those of evidence")
        return report


_CONFIG = TypeAdapter(RetentionConfig)
_REPORT = TypeAdapter(RetentionReport, config={"ser_json_inf_nan": "constants"})
