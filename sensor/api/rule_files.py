"""The rules in the rule files, for people who ask what a rule is; runs in the process of the API."""

from __future__ import annotations

import threading
from pathlib import Path

from sensor.errors import RulesError
from sensor.model import RULE_CLASSES
from sensor.rules.files.load import RuleSet, load_rules

_States = list[tuple[int, int] | None]


class RuleFiles:
    """Loads the rules, and again when a file has changed; which takes a second or two."""

    def __init__(self, directory: Path, *, lenient: bool) -> None:
        self._directory = directory
        self._lenient = lenient
        self._lock = threading.Lock()
        self._loaded: tuple[_States, RuleSet] | None = None

    def load(self) -> RuleSet:
        """Return the rules as the files have them now; where they may not be read any more, as they were.

        Raises:
            RulesError: The files cannot be read or a rule is wrong.
        """
        with self._lock:
            try:
                states = [_state(self._directory / f"{rule_class}.json") for rule_class in RULE_CLASSES]
            except PermissionError:
                if self._loaded:
                    return self._loaded[1]
                raise RulesError(f"{self._directory}: the user of the API may not read the rules") from None
            if self._loaded is None or self._loaded[0] != states:
                self._loaded = (states, load_rules(self._directory, lenient=self._lenient))
            return self._loaded[1]


def _state(path: Path) -> tuple[int, int] | None:
    """Tell one version of a file from another; None where there is none. Raises PermissionError."""
    try:
        status = path.stat()
    except PermissionError:
        raise
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
