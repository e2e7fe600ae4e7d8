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
from sensor.process.granted_paths import Files, Grant
from sensor.process.opener import RemoteFiles
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
    """The file of the audit log. A file that was removed is created again, by a process that still may."""

    def __init__(self, path: Path) -> None:
        """Open the file to append to it; a new one is created with mode 0640, subject to the umask.

        Call this before `drop_privileges`, while the process has one thread: it starts the process that opens
        the file again.

        Raises:
            OSError: it cannot be written, or is no regular file.
        """
        super().__init__(_stream(Files().append(path)))
        self.setFormatter(logging.Formatter("%(message)s"))
        self._path = path.absolute()
        self._files = RemoteFiles([Grant("append", self._path)])

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if not os.fstat(self.stream.fileno()).st_nlink:
            self._open_again()
        super().emit(record)

    def _open_again(self) -> None:
        """Go on in a new file; while there can be none, lines go to the log of the process."""
        try:
            stream = _stream(self._files.append(self._path))
        except OSError as error:
            if not audit_log.propagate:
                log.error(  # noqa: TRY400 - no traceback needed
                    "audit: %s was removed, and cannot be created again: %s; what follows is in this log",
                    self._path,
                    error.strerror,
                )
            audit_log.propagate = True  # of this record, too
            return
        log.error("audit: %s was removed; it goes on in a new file of that name", self._path)
        self.setStream(stream).close()  # type: ignore[union-attr]
        audit_log.propagate = False


def _stream(descriptor: int) -> TextIO:
    return os.fdopen(descriptor, "a", encoding="utf-8")


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
