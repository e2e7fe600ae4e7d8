"""Compiled rules are found again as long as nothing has changed, and only where nobody else can write."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sensor.errors import RulesError
from sensor.rules import ready
from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, HttpReading
from sensor.rules.ready import Ready, make_ready

PAYLOADS = [
    b"GET /?q=%3Cneedle%3E HTTP/1.1\r\n\r\n",
    b"needle=7",
    b" " * 5000 + b"needle=(42)",
    b"^needle",
    b"nothing",
]
RULES = {
    "1": {"type": "T", "name": "N", "regex": "needle=\\(?(\\d+)"},
    "2": {"type": "T", "name": "N", "regex": "<needle>", "is_http": 1, "decode": "url"},
    "3": {"type": "T", "name": "N", "regex": "^[^a-z]needle$", "protocol": "udp"},
}


def write(directory: Path, rules: object = RULES) -> None:
    """Write a rule file."""
    directory.mkdir(exist_ok=True)
    (directory / "threat.json").write_text(json.dumps({"threat": {"rules": rules}}))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of compiled rules, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sensor"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the directories from which rules were really loaded, one after the other."""
    found: list[Path] = []
    load_rules = ready.load_rules

    def load(directory: Path, *, lenient: bool) -> object:
        found.append(directory)
        return load_rules(directory, lenient=lenient)

    monkeypatch.setattr(ready, "load_rules", load)
    return found


def make(directory: Path, http: HttpReading = RFC9110, *, lenient: bool = False) -> Ready:
    """Make the rules ready."""
    return make_ready(directory, http, lenient=lenient)


def test_what_is_found_again_works_like_what_was_compiled(
    tmp_path: Path, cache: Path, loads: list[Path]
) -> None:
    """The same rules, matches and plan, in short, long and encoded payloads."""
    write(tmp_path / "rules")
    first, second = make(tmp_path / "rules"), make(tmp_path / "rules")
    assert len(loads) == 1
    assert list(cache.iterdir())
    assert first.rules == second.rules
    assert first.plan.code == second.plan.code
    for payload in PAYLOADS:
        for protocol in (6, 17, 1):
            found = first.matcher.match(payload, protocol, 1, 2)
            assert found == second.matcher.match(payload, protocol, 1, 2)
    assert [len(first.matcher.match(payload, 17, 1, 2)) for payload in PAYLOADS] == [1, 1, 1, 1, 0]


def test_what_has_changed_is_compiled_anew(tmp_path: Path, cache: Path, loads: list[Path]) -> None:
    """A rule, the reading of HTTP, or how faults are taken."""
    assert not cache.exists()
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    write(tmp_path / "rules", RULES | {"1": RULES["1"] | {"regex": "other"}})
    changed = make(tmp_path / "rules")
    assert changed.rules.rules[0].regex == "other"
    make(tmp_path / "rules", LY_PROBE)
    make(tmp_path / "rules", lenient=True)
    assert len(loads) == 4


@pytest.mark.parametrize("damage", ["cut", "changed", "of another kind"])
def test_a_damaged_file_is_not_used(tmp_path: Path, cache: Path, loads: list[Path], damage: str) -> None:
    """It is as if it were not there, and the next one is whole again."""
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    [kept] = cache.iterdir()
    content = bytearray(kept.read_bytes())
    content[-1] ^= damage == "changed"
    kept.write_bytes({"cut": content[:-9], "changed": content, "of another kind": b""}[damage])
    make(tmp_path / "rules")
    make(tmp_path / "rules")
    assert len(loads) == 2


@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_others_can_write_is_not_trusted(
    tmp_path: Path, cache: Path, loads: list[Path], what: str
) -> None:
    """Whoever could put a file there could run anything as us."""
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    [kept] = cache.iterdir()
    (cache if what == "directory" else kept).chmod(0o777)
    make(tmp_path / "rules")
    assert len(loads) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_somebody_else_is_not_trusted(tmp_path: Path, cache: Path, loads: list[Path]) -> None:
    """However it is protected."""
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    os.chown(cache, 65534, 65534)
    make(tmp_path / "rules")
    assert len(loads) == 2


def test_a_place_that_cannot_be_written_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[Path]
) -> None:
    """Rules are then compiled at every start."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    make(tmp_path / "rules")
    assert len(loads) == 2


def test_few_are_kept(tmp_path: Path, cache: Path) -> None:
    """The latest ones: the directory does not grow with every change of a rule."""
    for number in range(ready.KEPT + 3):
        write(tmp_path / "rules", {"1": RULES["1"] | {"regex": f"needle{number}"}})
        make(tmp_path / "rules")
    assert len(list(cache.iterdir())) == ready.KEPT


def test_faulty_rules_are_refused_every_time(tmp_path: Path, cache: Path) -> None:
    """Nothing of them is kept."""
    write(tmp_path / "rules", {"1": {"type": "T", "name": "N", "regex": "("}})
    for _ in range(2):
        with pytest.raises(RulesError, match="regex"):
            make(tmp_path / "rules")
    assert not cache.exists()
