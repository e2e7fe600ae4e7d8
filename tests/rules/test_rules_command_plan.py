"""`sensor rules plan`: what the kernel passes on, and which rules need it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import sensor, write_rules

from sensor.rules.prefilter import decision


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Return a directory with a few rules."""
    return write_rules(tmp_path)


def test_rules_for_which_everything_passes_come_first(rules: Path) -> None:
    """They are listed with protocol and port; after them, the prefixes that pass."""
    done = sensor("rules", "plan", "--rules", rules, "--profile", "ly_probe")
    assert done.code == 0
    http = "midware 41001 nginx, threat 51001 SQL injection, threat 51002 SQL in a form, threat 51003 Plain"
    beginnings = [
        rf"    GET\x20/ of 11 bytes or more    {http}",
        f"    HTTP/1 of 11 bytes or more    {http}",
        rf"    POST\x20/ of 11 bytes or more    {http}",
    ]
    assert done.out.splitlines() == [
        "These rules do not fix the first bytes of a payload; all payloads on their port pass:",
        "    udp, port 53: service 10002 DNS",
        "tcp, every port:",
        *beginnings,
        r"    (?i:ssh)\-\.    service 10001 SSH",
        r"    (?i:ssh)\-[\x30-\x3f]    service 10001 SSH",
        "udp, every port:",
        *beginnings,
        "udp, port 53:",
        "    anything of 9 bytes or more    service 10002 DNS",
        "other protocols, every port:",
        *beginnings,
        "12 prefixes, in tables of 0.5 MiB",
    ]


def test_json_gives_the_bytes_and_all_rules(rules: Path) -> None:
    """There is one object per prefix, with value and mask in the byte order of the payload."""
    found = sensor("rules", "plan", "--rules", rules, "--json").objects
    assert [one for one in found if one["rules"] == [10001]][:1] == [
        {
            "protocol": "tcp",
            "port": None,
            "anything": False,
            "beginning": r"(?i:ssh)\-\.",
            "value": b"SSH-.".hex() + "000000",
            "mask": "dfdfdfffff000000",
            "length": 5,
            "rules": [10001],
        }
    ]
    assert [(one["protocol"], one["port"]) for one in found if one["anything"]] == [("udp", 53)]


def test_a_protocol_that_no_rule_needs(tmp_path: Path) -> None:
    """The output says that nothing of it passes."""
    rule = {"type": "T", "name": "N", "protocol": "tcp", "regex": "^ab"}
    (tmp_path / "service.json").write_text(json.dumps({"service": {"rules": {"1": rule}}}))
    done = sensor("rules", "plan", "--rules", tmp_path)
    assert done.out.splitlines() == [
        "tcp, every port:",
        "    (?i:ab)    service 1 N",
        "udp: nothing passes",
        "other protocols: nothing passes",
        "1 prefix, in tables of 0.5 MiB",
    ]


def test_prefixes_that_do_not_fit(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output says that more passes than it lists."""
    monkeypatch.setattr(decision, "_MOST_PREFIXES", 12)
    done = sensor("rules", "plan", "--rules", rules)
    assert "too many for the tables" in done.out.splitlines()[-1]
