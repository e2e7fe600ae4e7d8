"""Requests to reload rules: none is lost, each has an outcome, and the outcome can be read elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until

from sensor.cli import rules_reload
from sensor.errors import SensorError
from sensor.live.reload import Reloader
from sensor.live.reload_board import NAME, SIZE, ReloadBoard, ReloadState, read_reload_state
from sensor.live.rule_changes import rule_changes
from sensor.model import Rule
from sensor.rules.engine.http_payload import RFC9110
from tests.rules.endless_rules import ENDLESS


def write(directory: Path, regex: str) -> Path:
    """Write a rule file with one rule."""
    rule = {"type": "T", "name": "N", "regex": regex}
    (directory / "threat.json").write_text(json.dumps({"threat": {"rules": {"52013": rule}}}))
    return directory


def reloader(directory: Path) -> Reloader:
    """Return a reloader, which has no kernel to compile for."""
    program: Any = None
    return Reloader(directory, RFC9110, lambda _plan: program, lenient=False)


def polled(one: Reloader) -> int:
    """Poll until no load is under way; return the number of rule sets that came into force."""
    found = 0

    def is_done() -> bool:
        nonlocal found
        if one.poll():
            found += 1
            one.note_in_force("changed")
        return one.state.begun == one.state.ended and not one.is_loading

    wait_until(is_done)
    return found


def test_a_request_during_a_load_is_not_lost(tmp_path: Path) -> None:
    """The files may have changed since that load read them, so they are loaded once more."""
    one = reloader(write(tmp_path, "first"))
    one.request()
    assert one.poll() is None
    one.request()
    one.request()
    assert polled(one) == 2
    assert (one.state.begun, one.state.ended, one.state.exit_code) == (2, 2, 0)


@pytest.mark.parametrize("regex", ENDLESS)
def test_hostile_rules_are_refused_and_the_next_ones_loaded(tmp_path: Path, regex: str) -> None:
    """The outcome names the rule; later requests work."""
    one = reloader(write(tmp_path, regex))
    one.request()
    one.poll()
    assert polled(one) == 0
    assert one.state.exit_code == 2
    assert "rule 52013: regex: " in one.state.text
    write(tmp_path, "fine")
    one.request()
    one.poll()
    assert polled(one) == 1
    assert one.state.exit_code == 0


def test_a_fault_of_ours_ends_a_load_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the outcome gets one."""
    monkeypatch.setattr("threading.excepthook", lambda _arguments: None)
    one = reloader(write(tmp_path, "fine"))
    monkeypatch.setattr("sensor.live.reload.make_ready", lambda *_a, **_o: 1 / 0)
    one.request()
    one.poll()
    assert polled(one) == 0
    assert one.state.exit_code == 1


def test_the_board_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Its size stays the same, also if there are many faults; a state of another process is none."""
    state = ReloadState(os.getpid(), 3, 2, 2, "rule 1: …\n" * 1000, "checked")
    board = ReloadBoard(tmp_path)
    board.show(state)
    found = read_reload_state(tmp_path, os.getpid())
    assert found is not None
    assert found._replace(text="") == state._replace(text="")
    assert found.text.endswith("to see all: sensor rules check")
    assert (tmp_path / NAME).stat().st_size == SIZE
    assert read_reload_state(tmp_path, 1) is None
    board.close()


@pytest.mark.parametrize("content", ["", "[1", "[1, 2]", '[1, 2, 3, 4, "", "", null]', "{}"])
def test_a_board_that_is_damaged(tmp_path: Path, content: str) -> None:
    """It counts as none."""
    (tmp_path / NAME).write_text(content)
    assert read_reload_state(tmp_path, 1) is None


def test_nothing_foreign_is_written(tmp_path: Path) -> None:
    """A link in the place of the board is replaced."""
    foreign = tmp_path / "foreign"
    foreign.write_text("dear diary")
    (tmp_path / NAME).symlink_to(foreign)
    ReloadBoard(tmp_path).show(ReloadState())
    assert foreign.read_text() == "dear diary"


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command does not wait for a sensor that has ended, nor for one that stands still."""
    old = ReloadState(7, begun=1, ended=1, text="an old outcome")
    with pytest.raises(SensorError, match=r"process 7\) ended"):
        rules_reload._outcome(lambda: old, lambda: False, 2, 7)
    monkeypatch.setattr(rules_reload, "PATIENCE_S", 0.0)
    with pytest.raises(SensorError, match=r"process 7\) does not answer"):
        rules_reload._outcome(lambda: old, lambda: True, 2, 7)
    done = ReloadState(7, begun=2, ended=2, text="nothing changed")
    assert rules_reload._outcome(lambda: done, lambda: False, 2, 7) == done


def test_changes_in_words() -> None:
    """Few rules are named, many are counted."""
    before = [Rule(number, "os", "T", "N", "x") for number in range(1, 10)]
    after = [Rule(9, "os", "T", "N", "y"), Rule(10, "os", "T", "N", "x")]
    assert rule_changes(before, before) == "nothing changed; 9 rules in force"
    assert rule_changes(before, after) == (
        "added: 10; removed: 1, 2, 3, 4, 5 and 3 more; changed: 9; 2 rules in force"
    )
