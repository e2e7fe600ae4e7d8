"""Load rules from the JSON files of a directory, and report every fault in them at once.

Hostile rules can make this expensive, so sensors do it in a process of its own (`sensor.rules.compilation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sensor.model import RULE_CLASSES
from sensor.rules.files.rule_fault import FaultyRulesError
from sensor.rules.files.rule_file_reader import RuleFileReader
from sensor.rules.files.rule_set import RuleSet
from sensor.rules.files.rule_sources import RuleSources, path_of
from sensor.rules.progress import Watch, unwatched


def load_rules(directory: Path, *, lenient: bool = False) -> RuleSet:
    """Load the rules of a directory in this process.

    With ``lenient``, faulty rules and files that are not JSON are skipped, as ly_probe does, and reported in
    the result.

    Raises:
        FaultyRulesError: There are faults; the error holds them all. With ``lenient``: no file is usable.
    """
    return load_sources(RuleSources.read(directory), lenient=lenient)


def load_sources(
    sources: RuleSources,
    *,
    lenient: bool,
    watch: Watch = unwatched,
    refused: Mapping[str, str] | None = None,
) -> RuleSet:
    """Load the rules of these files.

    ``refused`` holds the problems of rules that are known to be faulty, by id; they are not tried again.

    Raises:
        FaultyRulesError: As for `load_rules`.
    """
    reader = RuleFileReader(watch, refused or {}, faults=list(sources.faults))
    reader.read_all(sources)
    order = [path_of(sources.directory, rule_class) for rule_class in RULE_CLASSES]
    faults = tuple(sorted(reader.faults, key=lambda fault: fault.path in order and order.index(fault.path)))
    if faults and (not lenient or not reader.files):
        raise FaultyRulesError(faults, len(reader.rules))
    return RuleSet(tuple(reader.rules), sources.digest, faults)
