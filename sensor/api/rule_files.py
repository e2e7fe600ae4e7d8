"""The rules as the rule files have them now. Runs in the API process."""

from __future__ import annotations

import threading
from pathlib import Path

from sensor.errors import RulesError
from sensor.model import RULE_CLASSES
from sensor.rules.files.load import load_rules
from sensor.rules.files.rule_set import RuleSet

_States = list[tuple[int, int] | None]


class RuleFiles:
    """Loads the rules, and loads them again when a file has changed; each load takes a second or two."""

    def __init__(self, directory: Path, *, lenient: bool) -> None:
        self._directory = directory
        self._lenient = lenient
        self._lock = threading.Lock()
        self._loaded: tuple[_States, RuleSet] | None = None

    def load(self) -> RuleSet:
        """Return the current rules, or the last ones loaded if the files are no longer readable.

        Raises:
            RulesError: the files cannot be read, or a rule has a fault.
        """
        with self._lock:
            try:
                states = [_state(self._directory / f"{rule_class}.json") for rule_class in RULE_CLASSES]
            except PermissionError:
                if self._loaded:
                    return self._loaded[1]
                raise RulesError(f"{self._directory}: the API user may not read the rules") from None
            if self._loaded is None or self._loaded[0] != states:
                self._loaded = (states, load_rules(self._directory, lenient=self._lenient))
            return self._loaded[1]


def _state(path: Path) -> tuple[int, int] | None:
    """Return time and size of a file, which change with its content; None if it does not exist.

    Raises:
        PermissionError: the file may not be read.
    """
    try:
        status = path.stat()
    except PermissionError:
        raise
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
