"""The audit log: who was given, held or released which evidence, and who was refused.

Runs in the API process.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

from starlette.types import Scope

from sensor.api.tokens import Role
from sensor.process.regular_file import open_regular
from sensor.text import to_json

_REFUSED = (401, 403, 421)

log = logging.getLogger(__name__)
audit_log = logging.getLogger("sensor.audit")


class Identity(NamedTuple):
    """Name and role of a client."""

    name: str
    role: Role


LOCAL = Identity("local", "read")
"""Identity of every user of this host while loopback needs no token."""


class AuditFile(logging.StreamHandler[TextIO]):
    """The file of the audit log. Lines go to the log of the process once the file was removed.

    The process has no right to make another one.
    """

    def __init__(self, path: Path) -> None:
        """Open the file to append to it; a new one is created with mode 0640, subject to the umask.

        Raises:
            OSError: it cannot be written, or is no regular file.
        """
        descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        super().__init__(os.fdopen(descriptor, "a", encoding="utf-8"))
        self.setFormatter(logging.Formatter("%(message)s"))
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if not audit_log.propagate and not os.fstat(self.stream.fileno()).st_nlink:
            log.error("audit: %s was removed; what follows is in this log, until a restart", self._path)
            audit_log.propagate = True  # of this record, too
        super().emit(record)


@dataclass
class AccessRecord:
    """One request and what it was given; becomes a line of the audit log."""

    client: str = ""
    """Address of the client; behind a trusted proxy, the one that the proxy names."""
    identity: Identity | None = None
    items: int | None = None
    """Evidence items in the response; None for a response without evidence."""
    is_change: bool = False
    """True for a request to hold or release evidence."""
    truncated: bool = False
    status: int = 0
    sent_bytes: int = 0
    started_s: float = field(default_factory=time.monotonic)


def write_audit(scope: Scope, record: AccessRecord) -> None:
    """Log a request if it was given evidence, was to hold or release some, or was refused."""
    if record.items is None and not record.is_change and record.status not in _REFUSED:
        return
    line = {
        "time_us": time.time_ns() // 1000,
        "client": record.client,
        "who": record.identity.name if record.identity else None,
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "status": record.status,
        "pieces": record.items or 0,
        "bytes": record.sent_bytes,
        "truncated": record.truncated,
        "ms": round((time.monotonic() - record.started_s) * 1000, 1),
    }
    audit_log.info("%s", to_json(line))
