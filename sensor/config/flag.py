"""The metadata of a setting: which commands have it as a flag, its unit, and words for its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Meaning(NamedTuple):
    """The meaning of a setting for one command, if it differs from its meaning for the others."""

    help: str
    default: str = ""
    """The default in words; empty: the same as for the other commands."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """The flag of a setting, as an annotation of the field in `sensor.config.settings.Settings`."""

    commands: tuple[str, ...]
    """Commands with this flag: ``run``, ``evidence list``; ``evidence`` stands for all of its subcommands."""
    short: str = ""
    """The short form: ``-i``."""
    metavar: str = ""
    """The placeholder of the value in help texts; empty: the unit in capitals."""
    unit: str = ""
    """The unit of the value: ``MiB``, ``days``."""
    unset: str = ""
    """The default in words, where the value itself says too little."""
    differs: Mapping[str, Meaning] = field(default_factory=dict)
    """The meaning by command, for commands that use the setting in another way."""

    def is_of(self, command: str) -> bool:
        """Return True if a command has this flag; ``command`` is its full name, like ``evidence list``."""
        return any(command == one or command.startswith(f"{one} ") for one in self.commands)
