"""Read rule files into rules and faults. Used when rules are loaded or checked, in any process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor.errors import RulesError
from sensor.model import RULE_CLASSES, Rule, RuleClass
from sensor.protocols import RULE_PROTOCOLS
from sensor.rules.engine.expression import expression
from sensor.rules.files import located
from sensor.rules.files.fields import FIELDS, LABELS, PRIORITY, REQUIRED, RULE_ID
from sensor.rules.files.rule_fault import Fault
from sensor.rules.files.rule_sources import RuleSources
from sensor.rules.progress import Phase, Progress, Watch, unwatched
from sensor.rules.regex.tree import RegexError
from sensor.text import CONTROLS, to_json

MOST_FAULTS = 10_000
MOST_STATES = 1_500_000
"""States of all rules together; 10,000 rules have up to 300,000."""

_Rules = list[tuple[Path, RuleClass, located.Entry]]


@dataclass
class RuleFileReader:
    """Reads the files of one directory, and collects their rules and faults."""

    watch: Watch = unwatched
    refused: Mapping[str, str] = field(default_factory=dict)
    """Problems of rules that are known to be faulty, by id."""
    rules: list[Rule] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    files: int = 0
    """Files that hold JSON."""
    _states: int = 0
    _seen: dict[str, str] = field(default_factory=dict)
    """File and line of each rule id."""

    def read_all(self, sources: RuleSources) -> None:
        """Add the rules and faults of all files.

        Raises:
            RulesError: There are more than `MOST_FAULTS` faults, or more than `MOST_STATES` states.
        """
        found: _Rules = []
        for path, rule_class, content in sources:
            self.watch(Progress(Phase.READ, file=RULE_CLASSES.index(rule_class)))
            self._read_file(path, rule_class, content, found)
        for number, (path, rule_class, entry) in enumerate(found, 1):
            place = RULE_CLASSES.index(rule_class)
            rule_id = int(entry.key) if RULE_ID.accepts(entry.key) else 0
            self.watch(Progress(Phase.CHECK, number, len(found), place, rule_id, entry.line))
            self._read_rule(path, rule_class, entry)
            if self._states > MOST_STATES:
                raise RulesError(
                    f"up to rule {rule_id}, the expressions expand to more than {MOST_STATES:,} states; "
                    "use fewer rules, or smaller repeats"
                )

    def _read_file(self, path: Path, rule_class: RuleClass, content: bytes, found: _Rules) -> None:
        """Add the rules of a file to those found."""
        try:
            document = located.loads(content.decode())
        except json.JSONDecodeError as error:
            problem = f"invalid JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
            self._fault(path, error.lineno, problem=problem)
        except UnicodeDecodeError as error:
            self._fault(path, None, problem=f"not UTF-8: invalid byte {error.object[error.start]:#x}")
        except (ValueError, RecursionError) as error:
            self._fault(path, None, problem=f"JSON with too long a number or too deep nesting: {error}")
        else:
            self.files += 1
            self._read_document(path, rule_class, document, found)

    def _read_document(self, path: Path, rule_class: RuleClass, document: object, found: _Rules) -> None:
        if not isinstance(document, located.Object) or len(document) != 1:
            self._fault(path, 1, problem=f'expected an object with one key, such as {{"{rule_class}": …}}')
            return
        [(key, body, line)] = document
        if not isinstance(body, located.Object):
            self._fault(path, line, field=key, problem='expected an object with "rules"')
            return
        entries = self._unique(path, None, body)
        if "rules" not in entries:
            self._fault(path, line, field=key, problem='"rules" is missing in this object')
        for name, value, entry_line in entries.values():
            if name == "rules" and isinstance(value, located.Object):
                found += ((path, rule_class, entry) for entry in value)
            elif name == "rules":
                self._fault(path, entry_line, field=name, problem="expected an object of rules by id")
            elif name != "priority":
                self._fault(path, entry_line, field=name, problem="unknown field; expected priority or rules")
            elif not PRIORITY.accepts(value):
                self._fault(path, entry_line, field=name, problem=_mismatch(PRIORITY.expected, value))

    def _read_rule(self, path: Path, rule_class: RuleClass, entry: located.Entry) -> None:
        rule_id, body, line = entry
        before = len(self.faults)
        if not RULE_ID.accepts(rule_id):
            self._fault(path, line, rule_id, problem=f"invalid id; expected {RULE_ID.expected}")
        elif rule_id in self._seen:
            problem = f"duplicate id; it is also used in {self._seen[rule_id]}"
            self._fault(path, line, rule_id, problem=problem)
        self._seen.setdefault(rule_id, f"{path.name}:{line}")
        if not isinstance(body, located.Object):
            self._fault(path, line, rule_id, problem=_mismatch("an object", body))
            return
        entries = self._unique(path, rule_id, body)
        values = self._checked_values(path, rule_id, line, entries)
        if values.get("deleted"):
            return
        if len(self.faults) == before:
            self._check_sense(path, rule_id, entries)
        if len(self.faults) == before:
            self.rules.append(_rule(int(rule_id), rule_class, values))

    def _unique(self, path: Path, rule_id: str | None, body: located.Object) -> dict[str, located.Entry]:
        """Return the entries by key; duplicate keys are faults."""
        entries: dict[str, located.Entry] = {}
        for entry in body:
            if entry.key in entries:
                problem = f"duplicate field; it is also set in line {entries[entry.key].line}"
                self._fault(path, entry.line, rule_id, entry.key, problem)
            entries.setdefault(entry.key, entry)
        return entries

    def _checked_values(
        self, path: Path, rule_id: str, line: int, entries: dict[str, located.Entry]
    ) -> dict[str, Any]:
        """Return the values of the valid fields; each other field is a fault."""
        values: dict[str, Any] = {}
        for name, value, entry_line in entries.values():
            if name not in FIELDS:
                problem = f"unknown field; expected one of {', '.join(FIELDS)}"
                self._fault(path, entry_line, rule_id, name, problem)
            elif not FIELDS[name].accepts(value):
                self._fault(path, entry_line, rule_id, name, _mismatch(FIELDS[name].expected, value))
            else:
                values[name] = value
        for name in REQUIRED:
            if name not in entries:
                self._fault(path, line, rule_id, name, f"missing; expected {FIELDS[name].expected}")
        return values

    def _check_sense(self, path: Path, rule_id: str, entries: dict[str, located.Entry]) -> None:
        """Check the fields, each valid by itself, against each other, and check the regex."""
        values = {name: entry.value for name, entry in entries.items()}
        if values.get("is_http") and str(values.get("protocol")).lower() == "udp":
            problem = "a rule for HTTP over UDP can never match; use tcp or no protocol"
            self._fault(path, entries["protocol"].line, rule_id, "protocol", problem)
        for name in LABELS:
            if CONTROLS.search(str(values.get(name, ""))):
                problem = f"contains control characters; remove them from {to_json(values[name])}"
                self._fault(path, entries[name].line, rule_id, name, problem)
        if values.get("decode") and not values.get("is_http"):
            problem = "only HTTP is decoded; set is_http to 1 in this rule"
            self._fault(path, entries["decode"].line, rule_id, "decode", problem)
        if rule_id in self.refused:
            self._fault(path, entries["regex"].line, rule_id, "regex", self.refused[rule_id])
            return
        try:
            self._states += expression(str(values["regex"])).tree.extent.states
        except RegexError as error:
            self._fault(path, entries["regex"].line, rule_id, "regex", str(error))

    def _fault(
        self,
        path: Path,
        line: int | None,
        rule_id: str | None = None,
        field: str | None = None,
        problem: str = "",
    ) -> None:
        if len(self.faults) == MOST_FAULTS:
            raise RulesError(f"{path}: {MOST_FAULTS:,} faults up to this file; is it one of rules?")
        self.faults.append(Fault(path, line, rule_id, field, problem))


def _mismatch(expected: str, value: object) -> str:
    found = "an object" if isinstance(value, located.Object) else json.dumps(value, ensure_ascii=False)
    return f"expected {expected}, found {found if len(found) <= 40 else found[:39] + '…'}"


def _rule(rule_id: int, rule_class: RuleClass, values: dict[str, Any]) -> Rule:
    return Rule(
        rule_id=rule_id,
        rule_class=rule_class,
        type=values["type"],
        name=values["name"],
        regex=values["regex"],
        protocol=RULE_PROTOCOLS.get(values.get("protocol", "").lower()),
        port=int(values.get("port", 0)),
        is_http=bool(values.get("is_http")),
        part=values.get("part", "total"),
        decode=values.get("decode"),
        version=values.get("version"),
        vendor=values.get("vendor"),
        os=values.get("os"),
        desc=values.get("desc"),
        context=values.get("context"),
    )
