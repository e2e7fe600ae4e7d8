"""What was found out about this host: how bad it is, why it matters, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]
"""Fine; to be known; works, and not as well as it could; nothing is captured as long as that is so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. As text it is one line for a user."""

    level: Level
    check: str
    """What was looked at, in a word: ``mtu``."""
    subject: str = ""
    """The interface, directory or address that it is about, where there could be several."""
    what: str
    why: str = ""
    """Goes on with *so*."""
    advice: str = ""
    """Goes on with the command, where there is one."""
    command: str = ""
    """For a shell, as root."""
    is_safe: bool = False
    """The command takes nothing from anybody: ``sensor doctor --fix`` may run it."""

    @property
    def statement(self) -> str:
        """What is so, and why it matters."""
        text = ": ".join(filter(None, (self.subject, self.what)))
        return f"{text}, so {self.why}" if self.why else text

    @property
    def remedy(self) -> str:
        """What to do about it; empty where there is nothing to do."""
        return ": ".join(filter(None, (self.advice, self.command)))

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.statement, self.remedy)))
