"""The rule files of a directory, as bytes. They are read by the process that wants the rules.

Another process parses them (`sensor.rules.compilation`), because what is in them may be hostile.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from sensor.model import RULE_CLASSES, RuleClass
from sensor.rules.files.rule_fault import Fault

MOST_BYTES = 32 << 20
"""Maximum size of all rule files together; 10,000 rules have 3 MiB."""


class RuleSources:
    """The contents of those rule files that can be read, and a fault for each that cannot."""

    def __init__(
        self, directory: Path, contents: dict[RuleClass, bytes], faults: tuple[Fault, ...] = ()
    ) -> None:
        self.directory, self.contents, self.faults = directory, contents, faults

    @classmethod
    def read(cls, directory: Path) -> RuleSources:
        """Read ``service.json``, ``device.json``, ``os.json``, ``midware.json`` and ``threat.json``.

        A missing file means no rules of that class, but at least one file must exist.
        """
        contents: dict[RuleClass, bytes] = {}
        faults = []
        left = MOST_BYTES
        for rule_class in RULE_CLASSES:
            path = path_of(directory, rule_class)
            try:
                contents[rule_class] = _read(path, left)
                left -= len(contents[rule_class])
            except FileNotFoundError:
                continue
            except OSError as error:
                faults.append(Fault(path, None, None, None, f"cannot be read: {error.strerror}"))
        if not contents and not faults:
            names = ", ".join(f"{name}.json" for name in RULE_CLASSES)
            problem = f"no rule file in this directory; expected one of {names}"
            faults.append(Fault(directory, None, None, None, problem))
        return cls(directory, contents, tuple(faults))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files, hexadecimal."""
        digest = hashlib.sha256()
        for rule_class, content in self.contents.items():
            digest.update(path_of(self.directory, rule_class).name.encode() + b"\0" + content)
        return digest.hexdigest()

    def __iter__(self) -> Iterator[tuple[Path, RuleClass, bytes]]:
        for rule_class, content in self.contents.items():
            yield path_of(self.directory, rule_class), rule_class, content


def path_of(directory: Path, rule_class: RuleClass) -> Path:
    """Return the path of the rule file of a class."""
    return directory / f"{rule_class}.json"


def _read(path: Path, most_bytes: int) -> bytes:
    """Return the content of a regular file; a pipe or a device would never end.

    Raises:
        OSError: It cannot be read, or is too large.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a directory is an error of its own
            raise OSError(0, "it is not a regular file")
        content = bytearray()
        while len(content) <= most_bytes and (part := os.read(descriptor, 1 << 20)):
            content += part
    finally:
        os.close(descriptor)
    if len(content) > most_bytes:
        raise OSError(0, f"the rule files together have more than {MOST_BYTES >> 20} MiB; use smaller ones")
    return bytes(content)
