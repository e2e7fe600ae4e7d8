"""One finding of ``sensor doctor``: its level, why it matters, and the command that fixes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]
"""``ok``; ``note``: worth knowing; ``warning``: works, but not well; ``error``: prevents capture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check. As a string it is one line for the user."""

    level: Level
    check: str
    """Name of the check, one word: ``mtu``."""
    subject: str = ""
    """Interface, directory or address that was checked, if there could be several."""
    what: str
    why: str = ""
    """Consequence, which follows the word *so*."""
    advice: str = ""
    """Advice for the user; ``command`` follows it, if there is one."""
    command: str = ""
    """Shell command that fixes it, for root."""
    is_safe: bool = False
    """True if the command affects nothing else, so that ``sensor doctor --fix`` may run it."""

    @property
    def statement(self) -> str:
        """The finding, and why it matters."""
        text = ": ".join(filter(None, (self.subject, self.what)))
        return f"{text}, so {self.why}" if self.why else text

    @property
    def remedy(self) -> str:
        """Advice and command in one line; empty if there is nothing to do."""
        return ": ".join(filter(None, (self.advice, self.command)))

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.statement, self.remedy)))
