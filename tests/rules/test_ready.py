"""Compiled rules are reused while nothing has changed, and only if no other user can write them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensor.errors import RulesError
from sensor.rules import ready
from sensor.rules.compilation.ready_codec import MalformedResultError
from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, HttpReading
from sensor.rules.files.rule_sources import RuleSources
from sensor.rules.ready import Ready, make_ready
from tests.rules.test_matches import expected as expected_in_batch
from tests.rules.test_matches import found as found_in_batch

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
    """Return the cache directory for compiled rules, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sensor"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of directories whose rules are compiled instead of read from the cache."""
    found: list[Path] = []
    compile_rules = ready.compile_rules

    def compile_noted(sources: RuleSources, http: HttpReading, **options: Any) -> object:
        found.append(sources.directory)
        return compile_rules(sources, http, **options)

    monkeypatch.setattr(ready, "compile_rules", compile_noted)
    return found


def make(directory: Path, http: HttpReading = RFC9110, *, lenient: bool = False) -> Ready:
    """Make the rules of a directory ready."""
    return make_ready(directory, http, lenient=lenient)


def test_cached_rules_work_like_compiled_rules(tmp_path: Path, cache: Path, loads: list[Path]) -> None:
    """They give the same rules, plan, and matches in short, long and encoded payloads, in batches too."""
    write(tmp_path / "rules")
    first, second = make(tmp_path / "rules"), make(tmp_path / "rules")
    assert len(loads) == 1
    assert list(cache.iterdir())
    assert first.rules == second.rules
    for written, read in zip(first.plan, second.plan, strict=True):
        assert np.array_equal(written, read)
    for payload in PAYLOADS:
        for protocol in (6, 17, 1):
            found = first.matcher.match(payload, protocol, 1, 2)
            assert found == second.matcher.match(payload, protocol, 1, 2)
        packets = [(payload, 17, 1, 2), (payload, 6, 1, 2)]
        assert found_in_batch(first.matcher, packets) == found_in_batch(second.matcher, packets)
        assert found_in_batch(second.matcher, packets) == expected_in_batch(first.matcher, packets)
    assert [len(first.matcher.match(payload, 17, 1, 2)) for payload in PAYLOADS] == [1, 1, 1, 1, 0]


def test_changed_rules_are_compiled_again(tmp_path: Path, cache: Path, loads: list[Path]) -> None:
    """A change of a rule, of the definition of HTTP, or of ``lenient`` makes the cache unusable."""
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
    """A damaged file counts as missing, and is replaced by an intact one."""
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    [kept] = cache.iterdir()
    content = bytearray(kept.read_bytes())
    content[-1] ^= damage == "changed"
    kept.write_bytes({"cut": content[:-9], "changed": content, "of another kind": b""}[damage])
    make(tmp_path / "rules")
    make(tmp_path / "rules")
    assert len(loads) == 2


def repacked(content: bytes, **changes: object) -> bytes:
    """Return the content of a cached file with some of its fields changed, and a correct digest."""
    magic, _ = ready._HEADER.unpack_from(content)
    fields, start = fields_of(content)
    text = json.dumps(fields | changes).encode()
    body = len(text).to_bytes(8, "little") + text + content[start:]
    return bytes(magic + hashlib.sha256(body).digest() + body)


def fields_of(content: bytes) -> tuple[dict[str, Any], int]:
    """Return the JSON in a cached file, and the offset of the databases after it."""
    start = ready._HEADER.size + 8
    end = start + int.from_bytes(content[start - 8 : start], "little")
    return json.loads(content[start:end]), end


@pytest.mark.parametrize(
    "changes",
    [
        {"rules": [{"regex": "x"}]},
        {"matcher": {}},
        {"sizes": []},
        {"sizes": [1 << 17] * 3},
        {"faults": None},
        {"sizes": [-1]},
        {"first_states": ["1", 1, 1, 1]},
        {"first_states": [1 << 40, 1, 1, 1]},
        {"merged_prefixes": -1},
        {"digest": 1},
        {"faults": [{"class": "../x", "line": 1, "rule_id": None, "field": None, "problem": ""}]},
    ],
    ids=str,
)
def test_a_file_of_another_shape_is_not_used(
    tmp_path: Path, cache: Path, loads: list[Path], changes: dict[str, object]
) -> None:
    """Fields that are missing or of another kind make a file unusable, even if its digest is right."""
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    [kept] = cache.iterdir()
    content = kept.read_bytes()
    assert ready._unpack(repacked(content), tmp_path / "rules", RFC9110).rules.digest
    kept.write_bytes(repacked(content, **changes))
    make(tmp_path / "rules")
    assert len(loads) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["rules"][0].update(port=-1),
        lambda fields: fields["rules"][0].update(protocol=True),
        lambda fields: fields["rules"][0].update(regex=1),
        lambda fields: fields["rules"][1].update(rule_id=1),
        lambda fields: fields["matcher"]["transports"][0].update(plain=-1),
        lambda fields: fields["matcher"]["deciders"][0].append(99),
        lambda fields: fields["matcher"]["missed"].append(-1),
        lambda fields: fields["matcher"]["transports"][0]["http"]["deciders"][0].__setitem__(0, 3),
    ],
)
def test_numbers_out_of_range_are_not_used(tmp_path: Path, cache: Path, change: Any) -> None:
    """A compiler that was taken over cannot make the engine look beside its tables."""
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    [kept] = cache.iterdir()
    body = kept.read_bytes()
    fields, _ = fields_of(body)
    change(fields)
    with pytest.raises(MalformedResultError):
        ready._unpack(repacked(body, **fields), tmp_path / "rules", RFC9110)


@pytest.mark.parametrize("at", [0, 4, 8, 20, 1000], ids=["magic", "version", "size", "platform", "bytecode"])
def test_a_database_that_hyperscan_refuses_is_not_used(
    tmp_path: Path, cache: Path, loads: list[Path], at: int
) -> None:
    """A database of another release or processor makes the file unusable."""
    write(tmp_path / "rules")
    first = make(tmp_path / "rules")
    [kept] = cache.iterdir()
    content = kept.read_bytes()
    database = next(one.plain.databases.whole for one in first.matcher.transports)
    assert database is not None
    assert content.count(database) == 1
    damaged = bytearray(database)
    damaged[at] ^= 1
    kept.write_bytes(repacked(content.replace(database, bytes(damaged))))
    make(tmp_path / "rules")
    assert len(loads) == 2


def test_a_cached_file_holds_no_code(tmp_path: Path, cache: Path) -> None:
    """The file is a header, JSON and databases: nothing in it is unpickled."""
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    [kept] = cache.iterdir()
    content = kept.read_bytes()
    fields, end = fields_of(content)
    assert content.startswith(ready._MAGIC)
    assert len(content) == end + sum(fields["sizes"])
    assert [rule["regex"] for rule in fields["rules"]] == [rule["regex"] for rule in RULES.values()]
    assert b"pickle" not in Path(ready.__file__).read_bytes()


@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_cache_that_others_can_write_is_not_trusted(
    tmp_path: Path, cache: Path, loads: list[Path], what: str
) -> None:
    """An attacker who can write there could leave a database that crashes the engine."""
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    [kept] = cache.iterdir()
    (cache if what == "directory" else kept).chmod(0o777)
    make(tmp_path / "rules")
    assert len(loads) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_cache_of_another_user_is_not_trusted(tmp_path: Path, cache: Path, loads: list[Path]) -> None:
    """A cache directory owned by another user is ignored, whatever its mode."""
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    os.chown(cache, 65534, 65534)
    make(tmp_path / "rules")
    assert len(loads) == 2


def test_a_cache_that_cannot_be_written_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[Path]
) -> None:
    """Without a cache, rules are compiled at every start."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write(tmp_path / "rules")
    make(tmp_path / "rules")
    make(tmp_path / "rules")
    assert len(loads) == 2


def test_few_are_kept(tmp_path: Path, cache: Path) -> None:
    """Only the latest rule sets are kept: the cache does not grow with each change of a rule."""
    for number in range(ready.KEPT + 3):
        write(tmp_path / "rules", {"1": RULES["1"] | {"regex": f"needle{number}"}})
        make(tmp_path / "rules")
    assert len(list(cache.iterdir())) == ready.KEPT


def test_faulty_rules_are_refused_every_time(tmp_path: Path, cache: Path) -> None:
    """Nothing of a faulty rule set is cached."""
    write(tmp_path / "rules", {"1": {"type": "T", "name": "N", "regex": "("}})
    for _ in range(2):
        with pytest.raises(RulesError, match="regex"):
            make(tmp_path / "rules")
    assert not cache.exists()
