"""Tokens that give access to evidence. Runs in `sensor token` and in the API process.

``<evidence directory>/tokens.json`` holds only hashes; its mode is 0640 and its group the directory's, so
that the API can read it. A token is 256 random bits, so its SHA-256 needs neither salt nor stretching (NIST
SP 800-63B, 5.1.1.2, requires them for secrets that can be guessed).
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
from sensor.evidence.device_directory import make_directory
from sensor.process.regular_file import MODE, open_regular

Role = Literal["read", "admin"]
MOST_BYTES = 1 << 22
"""Bytes read of the file: some 20,000 tokens."""
PREFIX = "sensor_"
"""Prefix by which scanners for leaked secrets recognise a token."""

log = logging.getLogger(__name__)


class Token(BaseModel):
    """A token without its secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._@-]{1,64}$", description="Name of the client it was made for")
    role: Role = Field(
        description="`read`: may read evidence; `admin`: may also hold evidence and list tokens"
    )
    created_us: int = Field(description="Time it was created, microseconds since the epoch")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", exclude=True)


class TokenFile:
    """The tokens of an evidence directory; changes of the file apply from the next request on."""

    def __init__(self, evidence: Path) -> None:
        self.path = evidence / "tokens.json"
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def list(self) -> tuple[Token, ...]:
        """Return the tokens in the order they were created.

        Raises:
            EvidenceError: the file exists but cannot be read or is damaged.
        """
        try:
            with os.fdopen(open_regular(self.path, os.O_RDONLY), "rb") as file:
                status = os.fstat(file.fileno())
                seen = (status.st_mtime_ns, status.st_size, status.st_ino)
                if seen != self._seen:
                    self._tokens = _List.model_validate_json(file.read(MOST_BYTES)).tokens
                    self._seen = seen
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise EvidenceError(f"{self.path}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise EvidenceError(f"{self.path}: is damaged; remove it and create new tokens") from error
        return self._tokens

    def find(self, text: str) -> Token | None:
        """Return the token with this text; None if there is none or the file cannot be read."""
        digest = _digest(text)
        try:
            tokens = self.list()
        except EvidenceError as error:
            log.error("every token is refused: %s", error)  # noqa: TRY400 - no traceback needed
            return None
        found = [token for token in tokens if hmac.compare_digest(token.sha256, digest)]
        return found[0] if found else None

    def create(self, name: str, role: Role) -> str:
        """Create a token and return its text, which is not stored.

        Raises:
            SettingsError: the name is invalid or in use.
            EvidenceError: the file cannot be read or written.
        """
        tokens = self.list()
        if any(token.name == name for token in tokens):
            raise SettingsError(f"token {name!r} already exists; revoke it first, or choose another name")
        text = PREFIX + secrets.token_urlsafe(32)
        try:
            token = Token(name=name, role=role, created_us=time.time_ns() // 1000, sha256=_digest(text))
        except ValidationError as error:
            raise SettingsError(
                f"invalid token name {name!r}: use 1 to 64 letters, digits and . _ @ -"
            ) from error
        self._write([*tokens, token])
        return text

    def revoke(self, name: str) -> None:
        """Remove a token; the next request with it is refused.

        Raises:
            SettingsError: no token has this name.
            EvidenceError: the file cannot be read or written.
        """
        tokens = self.list()
        left = [token for token in tokens if token.name != name]
        if len(left) == len(tokens):
            raise SettingsError(f"no token is named {name!r}; `sensor token list` shows all tokens")
        self._write(left)

    def _write(self, tokens: Sequence[Token]) -> None:
        """Replace the file atomically."""
        rows = [{**token.model_dump(), "sha256": token.sha256} for token in tokens]
        try:
            make_directory(self.path.parent)
            descriptor, temp = tempfile.mkstemp(dir=self.path.parent, prefix=".tokens-")
            with os.fdopen(descriptor, "w") as file:
                json.dump({"tokens": rows}, file, indent=1)
                os.fchown(descriptor, -1, self.path.parent.stat().st_gid)
                os.fchmod(descriptor, MODE)
            Path(temp).replace(self.path)
        except OSError as error:
            raise EvidenceError(f"{self.path}: cannot be written: {error.strerror}") from error


class _List(BaseModel):
    tokens: tuple[Token, ...]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
