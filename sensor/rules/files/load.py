"""Load rules from the five JSON files of a directory, and report every fault in them at once.

Runs in any process that loads or checks rules; never while a packet waits.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sensor.model import RULE_CLASSES
from sensor.rules.files.rule_fault import Fault, FaultyRulesError
from sensor.rules.files.rule_file_reader import RuleFileReader
from sensor.rules.files.rule_set import RuleSet

log = logging.getLogger(__name__)


def load_rules(directory: Path, *, lenient: bool = False) -> RuleSet:
    """Read ``service.json``, ``device.json``, ``os.json``, ``midware.json`` and ``threat.json``.

    A missing file means no rules of that class, but at least one file must exist. With ``lenient``,
    faulty rules and files that are not JSON are skipped, as ly_probe does, and reported in the result.

    Raises:
        FaultyRulesError: There are faults; the error holds them all. With ``lenient``: no file is usable.
    """
    reader = RuleFileReader()
    for rule_class in RULE_CLASSES:
        reader.read(directory / f"{rule_class}.json", rule_class)
    if not reader.files and not reader.faults:
        names = ", ".join(f"{name}.json" for name in RULE_CLASSES)
        problem = f"no rule file in this directory; expected one of {names}"
        reader.faults.append(Fault(directory, None, None, None, problem))
    if reader.faults and (not lenient or not reader.files):
        raise FaultyRulesError(tuple(reader.faults))
    return RuleSet(tuple(reader.rules), reader.digest.hexdigest(), tuple(reader.faults))


def load_and_log(directory: Path, *, lenient: bool) -> RuleSet:
    """Load rules, and log the ones that were skipped.

    Raises:
        FaultyRulesError: There are faults. With ``lenient``: no file is usable.
    """
    rules = load_rules(directory, lenient=lenient)
    for fault in rules.faults:
        log.warning("rule skipped: %s", fault)
    return rules
