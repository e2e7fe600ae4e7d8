"""Tokens: who may look at evidence; only their hashes are kept. Used by `sensor token` and by the API.

``<evidence directory>/tokens.json``, mode 0640 and of the directory's group, so that the API can read it as
evidence. A token is 256 random bits: its SHA-256 needs neither salt nor stretching (NIST SP 800-63B, 5.1.1.2,
asks for them where secrets can be guessed).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensor.errors import EvidenceError, SettingsError

Role = Literal["read", "admin"]
PREFIX = "sensor_"
"""Lets scanners for leaked secrets recognise a token."""

log = logging.getLogger(__name__)


class Token(BaseModel):
    """What is known about a token: not the token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._@-]{1,64}$", description="Whom or what it was made for")
    role: Role = Field(description="`read`: evidence; `admin`: also the list of tokens")
    created_us: int = Field(description="When it was made, microseconds since the epoch")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", exclude=True)


class TokenFile:
    """The tokens of an evidence directory; a change of the file is in force with the next request."""

    def __init__(self, evidence: Path) -> None:
        self.path = evidence / "tokens.json"
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def list(self) -> tuple[Token, ...]:
        """Return the tokens in the order they were made.

        Raises:
            EvidenceError: The file is there but cannot be read or is damaged.
        """
        try:
            status = self.path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._tokens = _List.model_validate_json(self.path.read_bytes()).tokens
                self._seen = seen
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise EvidenceError(f"{self.path}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise EvidenceError(f"{self.path}: is damaged; remove it and make new tokens") from error
        return self._tokens

    def find(self, text: str) -> Token | None:
        """Return the token with this text; None where there is none, or the tokens cannot be read."""
        digest = _digest(text)
        try:
            tokens = self.list()
        except EvidenceError as error:
            log.error("nobody is let in: %s", error)  # noqa: TRY400 - the line says it all
            return None
        found = [token for token in tokens if hmac.compare_digest(token.sha256, digest)]
        return found[0] if found else None

    def create(self, name: str, role: Role) -> str:
        """Make a token and return its text, which is not kept anywhere.

        Raises:
            SettingsError: The name is taken or cannot be one.
            EvidenceError: The file cannot be read or written.
        """
        tokens = self.list()
        if any(token.name == name for token in tokens):
            raise SettingsError(f"there is a token {name!r} already; revoke it first, or take another name")
        text = PREFIX + secrets.token_urlsafe(32)
        try:
            token = Token(name=name, role=role, created_us=time.time_ns() // 1000, sha256=_digest(text))
        except ValidationError as error:
            raise SettingsError(
                f"{name!r} cannot be a token's name: 1 to 64 letters, digits and . _ @ -"
            ) from error
        self._write([*tokens, token])
        return text

    def revoke(self, name: str) -> None:
        """Remove a token: the next request with it is refused.

        Raises:
            SettingsError: There is none of this name.
            EvidenceError: The file cannot be read or written.
        """
        tokens = self.list()
        left = [token for token in tokens if token.name != name]
        if len(left) == len(tokens):
            raise SettingsError(f"there is no token {name!r}; `sensor token list` shows those there are")
        self._write(left)

    def _write(self, tokens: Sequence[Token]) -> None:
        """Replace the file as a whole."""
        rows = [{**token.model_dump(), "sha256": token.sha256} for token in tokens]
        try:
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            descriptor, temp = tempfile.mkstemp(dir=self.path.parent, prefix=".tokens-")
            with os.fdopen(descriptor, "w") as file:
                json.dump({"tokens": rows}, file, indent=1)
                os.fchown(descriptor, -1, self.path.parent.stat().st_gid)
                os.fchmod(descriptor, 0o640)
            Path(temp).replace(self.path)
        except OSError as error:
            raise EvidenceError(f"{self.path}: cannot be written: {error.strerror}") from error


class _List(BaseModel):
    tokens: tuple[Token, ...]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
