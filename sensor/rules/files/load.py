"""Rule files to rules: the five JSON files of a directory, and every fault in them at once.

Runs in whichever process loads or checks rules; never beside a packet.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor.errors import RulesError
from sensor.model import RULE_CLASSES, Rule, RuleClass
from sensor.protocols import RULE_PROTOCOLS
from sensor.rules.engine.expression import expression
from sensor.rules.files import located
from sensor.rules.files.fields import FIELDS, PRIORITY, REQUIRED, RULE_ID
from sensor.rules.regex.tree import RegexError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a rule file."""

    path: Path
    line: int | None
    rule_id: str | None
    field: str | None
    problem: str
    """What was expected, and what was found."""

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        rule = f"rule {self.rule_id}" if self.rule_id else None
        return ": ".join(part for part in (place, rule, self.field, self.problem) if part)


class FaultyRulesError(RulesError):
    """A rules directory with faults; all of them are in ``faults``, a line each in the message."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one directory, in class and file order."""

    rules: tuple[Rule, ...]
    digest: str
    """SHA-256 over the files, hexadecimal."""
    faults: tuple[Fault, ...] = ()
    """Of the rules that a lenient load skipped."""

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)


def load_rules(directory: Path, *, lenient: bool = False) -> RuleSet:
    """Read ``service.json``, ``device.json``, ``os.json``, ``midware.json`` and ``threat.json``.

    A file that is absent holds no rules; one at least must be there. Raises `FaultyRulesError`
    with every fault found. ``lenient`` skips faulty rules instead, and files that are not JSON,
    as ly_probe does, and reports them in the result; only no usable file at all is an error.
    """
    reader = _Reader()
    for rule_class in RULE_CLASSES:
        reader.read(directory / f"{rule_class}.json", rule_class)
    if not reader.files and not reader.faults:
        names = ", ".join(f"{name}.json" for name in RULE_CLASSES)
        reader.faults.append(Fault(directory, None, None, None, f"expected one of {names} in this directory"))
    if reader.faults and (not lenient or not reader.files):
        raise FaultyRulesError(tuple(reader.faults))
    return RuleSet(tuple(reader.rules), reader.digest.hexdigest(), tuple(reader.faults))


def load_and_log(directory: Path, *, lenient: bool) -> RuleSet:
    """Load rules; where that is lenient, the log says which were skipped.

    Raises:
        RulesError: A rule is wrong and this is not lenient, or no rule is left.
    """
    rules = load_rules(directory, lenient=lenient)
    for fault in rules.faults:
        log.warning("rule skipped: %s", fault)
    return rules


def digest_of(directory: Path) -> str:
    """Return what `RuleSet.digest` will be, as far as the files can be read and are JSON."""
    digest = hashlib.sha256()
    for rule_class in RULE_CLASSES:
        path = directory / f"{rule_class}.json"
        with suppress(OSError):
            _add(digest, path, path.read_bytes())
    return digest.hexdigest()


def _add(digest: hashlib._Hash, path: Path, content: bytes) -> None:
    digest.update(path.name.encode() + b"\0" + content)


@dataclass
class _Reader:
    """What was read so far."""

    rules: list[Rule] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    files: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    _seen: dict[str, str] = field(default_factory=dict)
    """Where each rule id stands."""

    def read(self, path: Path, rule_class: RuleClass) -> None:
        """Add the rules and faults of one file."""
        try:
            content = path.read_bytes()
            document = located.loads(content.decode())
        except FileNotFoundError:
            return
        except json.JSONDecodeError as error:
            self._fault(
                path,
                error.lineno,
                problem=f"expected JSON: {error.msg.removesuffix(' at')} at column {error.colno}",
            )
        except UnicodeDecodeError as error:
            self._fault(
                path, None, problem=f"expected UTF-8 text, found the byte {error.object[error.start]:#x}"
            )
        except OSError as error:
            self._fault(path, None, problem=f"expected a readable file: {error.strerror}")
        except (ValueError, RecursionError) as error:
            self._fault(path, None, problem=f"expected JSON of a sane size: {error}")
        else:
            self.files += 1
            _add(self.digest, path, content)
            self._read_document(path, rule_class, document)

    def _read_document(self, path: Path, rule_class: RuleClass, document: object) -> None:
        if not isinstance(document, located.Object) or len(document) != 1:
            self._fault(path, 1, problem=f'expected an object with one key, such as {{"{rule_class}": …}}')
            return
        [(key, body, line)] = document
        if not isinstance(body, located.Object):
            self._fault(path, line, field=key, problem='expected an object with "rules"')
            return
        entries = self._unique(path, None, body)
        if "rules" not in entries:
            self._fault(path, line, field=key, problem='expected "rules" in this object')
        for name, value, place in entries.values():
            if name == "rules" and isinstance(value, located.Object):
                for rule_id, rule, rule_line in value:
                    self._read_rule(path, rule_class, located.Entry(rule_id, rule, rule_line))
            elif name == "rules":
                self._fault(path, place, field=name, problem="expected an object of rules by id")
            elif name != "priority":
                self._fault(path, place, field=name, problem="unknown field, expected priority or rules")
            elif not PRIORITY.accepts(value):
                self._fault(path, place, field=name, problem=_expected(PRIORITY.expected, value))

    def _read_rule(self, path: Path, rule_class: RuleClass, entry: located.Entry) -> None:
        rule_id, body, line = entry
        before = len(self.faults)
        if not RULE_ID.accepts(rule_id):
            self._fault(path, line, rule_id, problem=f"expected as id {RULE_ID.expected}")
        elif rule_id in self._seen:
            self._fault(
                path,
                line,
                rule_id,
                problem=f"expected an id of its own, it stands in {self._seen[rule_id]} too",
            )
        self._seen.setdefault(rule_id, f"{path.name}:{line}")
        if not isinstance(body, located.Object):
            self._fault(path, line, rule_id, problem=_expected("an object", body))
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
        """Index the entries by key; duplicates are faults."""
        entries: dict[str, located.Entry] = {}
        for entry in body:
            if entry.key in entries:
                first = entries[entry.key].line
                self._fault(
                    path, entry.line, rule_id, entry.key, f"expected once, it stands in line {first} too"
                )
            entries.setdefault(entry.key, entry)
        return entries

    def _checked_values(
        self, path: Path, rule_id: str, line: int, entries: dict[str, located.Entry]
    ) -> dict[str, Any]:
        """Return the values of the fields that are right; the others are faults."""
        values: dict[str, Any] = {}
        for name, value, place in entries.values():
            if name not in FIELDS:
                self._fault(path, place, rule_id, name, f"unknown field, expected one of {', '.join(FIELDS)}")
            elif not FIELDS[name].accepts(value):
                self._fault(path, place, rule_id, name, _expected(FIELDS[name].expected, value))
            else:
                values[name] = value
        for name in REQUIRED:
            if name not in entries:
                self._fault(path, line, rule_id, name, "missing, expected " + FIELDS[name].expected)
        return values

    def _check_sense(self, path: Path, rule_id: str, entries: dict[str, located.Entry]) -> None:
        """Faults of a rule whose fields are right one by one."""
        values = {name: entry.value for name, entry in entries.items()}
        if values.get("is_http") and str(values.get("protocol")).lower() == "udp":
            problem = "a rule for HTTP over UDP can never apply, expected tcp or no protocol"
            self._fault(path, entries["protocol"].line, rule_id, "protocol", problem)
        if values.get("decode") and not values.get("is_http"):
            problem = "only HTTP is decoded, expected is_http 1 in this rule"
            self._fault(path, entries["decode"].line, rule_id, "decode", problem)
        try:
            expression(str(values["regex"]))
        except RegexError as error:
            self._fault(path, entries["regex"].line, rule_id, "regex", f"expected {error}")

    def _fault(
        self,
        path: Path,
        line: int | None,
        rule_id: str | None = None,
        field: str | None = None,
        problem: str = "",
    ) -> None:
        self.faults.append(Fault(path, line, rule_id, field, problem))


def _expected(expected: str, value: object) -> str:
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
    )
