"""The process that writes down what the API is asked to hold and to release.

The API may not write evidence, and its user could not. So `sensor serve` starts this process before it gives
up its rights, or connects to it: as a service, systemd starts it as the user who owns the evidence. It
appends to the journals of holds, and looks up the token of each request itself: an attacker in control of the
API who has no token of an administrator can hold and release nothing.

A request is a line of JSON, and so is its answer.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sensor.api.tokens import TokenFile
from sensor.errors import EvidenceError, SensorError
from sensor.evidence.file_name import parse_name
from sensor.evidence.holding import entry_now
from sensor.evidence.holds import append_entry
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole
from sensor.process.landlock import Access
from sensor.process.prctl import set_process_name
from sensor.text import shown

MOST_BYTES = 8 << 20
"""Maximum size of a request: the names of the files of two years."""
REASON_MAX, QUERY_MAX = 500, 2000


log = logging.getLogger(__name__)


class HoldRefusedError(SensorError):
    """The process has not written it."""


def _check_name(value: str) -> str:
    if parse_name(value) is None:
        raise ValueError("is not the name of an evidence file")
    return value


_FileName = Annotated[str, AfterValidator(_check_name)]
_Devid = Annotated[int, Field(ge=0, lt=10**18)]


class HoldRequest(BaseModel):
    """A hold or a release to be written, and the token that permits it."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=200)
    action: Literal["hold", "release"]
    hold: str = Field(pattern=r"^[0-9]{8}-[0-9a-f]{6}$")
    reason: str = Field(min_length=1, max_length=REASON_MAX)
    query: str = Field(max_length=QUERY_MAX)
    files: dict[_Devid, tuple[_FileName, ...]]
    """Names by device; those of a release are not used."""


class _Outcome(BaseModel):
    """The outcome of a request."""

    by: str = ""
    """The name in the journal."""
    refusal: str = ""


class HoldKeeper:
    """Asks the process to write down holds; used by the threads of the API."""

    def __init__(self, connection: socket.socket) -> None:
        """Ask at the other end of this connection."""
        self._connection = connection
        self._answers = connection.makefile("rb")
        self._lock = threading.Lock()

    @classmethod
    def fork(cls, evidence: Path) -> HoldKeeper:
        """Start the process; call this before `drop_privileges`."""
        ours, theirs = socket.socketpair()
        with theirs:
            if os.fork() == 0:
                ours.close()
                _run(theirs, evidence)
        return cls(ours)

    @classmethod
    def connect(cls, path: Path) -> HoldKeeper:
        """Let systemd start the process; call this before `drop_privileges`, which forbids to connect.

        Raises:
            OSError: nobody listens there.
        """
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        return cls(connection)

    def write(self, request: HoldRequest) -> str:
        """Let a hold or a release be written, and return by whom it was made, in the words of the journal.

        Raises:
            HoldRefusedError: it is not permitted, is too large, or cannot be written.
        """
        line = request.model_dump_json().encode() + b"\n"
        if len(line) > MOST_BYTES:
            raise HoldRefusedError(
                "this evidence is in too many files for one hold; narrow since_us or until_us"
            )
        with self._lock:
            try:
                self._connection.sendall(line)
                answer = _Outcome.model_validate_json(self._answers.readline())
            except (OSError, ValidationError) as error:
                raise HoldRefusedError(
                    "the process that writes holds has ended;"
                    " start the API again, or run sensor evidence hold"
                ) from error
        if answer.refusal:
            raise HoldRefusedError(answer.refusal)
        return answer.by

    def close(self) -> None:
        """Let the process end."""
        self._answers.close()
        self._connection.close()


def start_keeper(evidence: Path, path: Path | None) -> HoldKeeper | None:
    """Return what writes holds: the service at a socket, or a process of this user; None if it may not."""
    if path is not None:
        try:
            return HoldKeeper.connect(path)
        except OSError as error:
            log.warning("hold_socket: %s: %s; no evidence can be held over HTTP", path, error.strerror)
            return None
    return HoldKeeper.fork(evidence) if os.geteuid() in (0, evidence.stat().st_uid) else None


def keep_holds(connection: socket.socket, evidence: Path) -> None:
    """Write what is asked for until the connection ends.

    Raises:
        PrivilegeError: the process cannot give up its rights.
    """
    set_process_name("sensor-hold")
    sandbox.enter_as_owner(
        ProcessRole.HOLD_KEEPER,
        evidence,
        descriptors=[connection.fileno()],
        access=Access(readable=sandbox.LIBRARIES, writable=(evidence,)),
    )
    with connection.makefile("rb") as requests:
        _answer_all(requests, connection, evidence)


def _run(connection: socket.socket, evidence: Path) -> None:
    """Keep holds in a process that was forked; never return."""
    code = 1
    try:
        keep_holds(connection, evidence)
        code = 0
    except (OSError, SensorError) as error:
        os.write(2, f"sensor-hold: {shown(str(error))}\n".encode())
    finally:
        os._exit(code)


def _answer_all(requests: BinaryIO, connection: socket.socket, evidence: Path) -> None:
    tokens = TokenFile(evidence)
    while line := requests.readline(MOST_BYTES + 1):
        try:
            answer = _Outcome(by=_write(HoldRequest.model_validate_json(line), tokens, evidence))
        except ValidationError:
            answer = _Outcome(refusal="the API sent a malformed request; this is a bug: please report it")
        except EvidenceError as error:
            answer = _Outcome(refusal=str(error))
        connection.sendall(answer.model_dump_json().encode() + b"\n")


def _write(request: HoldRequest, tokens: TokenFile, evidence: Path) -> str:
    """Append an entry to the journal of each device.

    Raises:
        EvidenceError: the token does not permit it, or a journal cannot be written.
    """
    token = tokens.find(request.token)
    if token is None or token.role != "admin":
        raise EvidenceError("this requires a token with the role admin")
    by = f"token {token.name}"
    for devid, files in request.files.items():
        entry = entry_now(request.action, request.hold, by, request.reason, request.query, files)
        try:
            append_entry(evidence / str(devid), entry)
        except OSError as error:
            raise EvidenceError(
                f"the holds of device {devid} cannot be written: {error.strerror};"
                f" run sensor evidence {request.action} as the user of the sensor, or as root"
            ) from error
    return by
