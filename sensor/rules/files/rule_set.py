"""A set of rules, and the digest of its files. Used when rules are loaded, in any process that does so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sensor.model import RULE_CLASSES, Rule
from sensor.rules.files.rule_fault import Fault


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one directory, in class and file order."""

    rules: tuple[Rule, ...]
    digest: str
    """SHA-256 of the files, hexadecimal."""
    faults: tuple[Fault, ...] = ()
    """Faults of the rules that a lenient load skipped."""

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)


def digest_of(directory: Path) -> str:
    """Return what `RuleSet.digest` will be, if all files can be read and are JSON."""
    digest = hashlib.sha256()
    for rule_class in RULE_CLASSES:
        path = directory / f"{rule_class}.json"
        with suppress(OSError):
            add_to_digest(digest, path, path.read_bytes())
    return digest.hexdigest()


def add_to_digest(digest: hashlib._Hash, path: Path, content: bytes) -> None:
    """Add one rule file to the digest of its rule set."""
    digest.update(path.name.encode() + b"\0" + content)
