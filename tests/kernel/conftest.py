"""What the tests on a real wire share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensor.config import OWN_RULES

FEW = {11001, 11031, 11061, 11064, 21002, 31001, 41001, 51001, 51008, 51401, 51601, 51607}


@pytest.fixture(scope="session")
def few_rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen of our own rules: compiling all of them takes seconds, and every start does it anew."""
    directory = tmp_path_factory.mktemp("few-rules")
    for file in OWN_RULES.glob("*.json"):
        [(key, content)] = json.loads(file.read_text()).items()
        chosen = {rule_id: rule for rule_id, rule in content["rules"].items() if int(rule_id) in FEW}
        (directory / file.name).write_text(json.dumps({key: {"rules": chosen}}))
    return directory


@pytest.fixture(autouse=True)
def use_few_rules(few_rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sensors that a test starts run with these, unless told otherwise."""
    monkeypatch.setenv("SENSOR_RULES", str(few_rules))
