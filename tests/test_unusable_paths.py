"""Paths that cannot be used: each command says which, and has the right exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rules.commands import sensor

LONG = "x" * 300
"""A name that no file can have. It is refused like one in a directory that may not be entered."""


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("evidence list --evidence PATH", 6),
        ("evidence show 1 --evidence PATH", 6),
        ("evidence conversation 1 --evidence PATH", 6),
        ("evidence conversations --evidence PATH", 6),
        ("evidence export out.pcap --evidence PATH", 6),
        ("evidence export PATH.pcap --evidence .", 6),
        ("evidence verify --evidence PATH", 6),
        ("evidence reindex --evidence PATH", 6),
        ("token list --evidence PATH", 6),
        ("token create name --evidence PATH", 6),
        ("serve --evidence PATH", 6),
        ("serve --tls-cert PATH --tls-key PATH --evidence .", 2),
        ("rules reload --evidence PATH", 6),
        ("rules list --rules PATH", 2),
        ("rules stats --payloads PATH", 7),
        ("rules explain PATH", 7),
        ("read PATH", 7),
        ("read --rules PATH in.pcap", 7),
        ("config show --config PATH", 2),
        ("config check --config PATH", 2),
        ("config init PATH", 2),
    ],
)
def test_a_path_that_cannot_be_used(
    command: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has one line, or one for each rule file."""
    monkeypatch.chdir(tmp_path)
    done = sensor(*command.replace("PATH", LONG).split())
    lines = done.err.splitlines()
    assert (done.code, len(lines)) == (code, 5 if "list --rules" in command else 1), done.err
    assert all(LONG in line or "in.pcap" in line for line in lines)


@pytest.mark.parametrize("setting", ["rules", "evidence", "audit"])
def test_settings_with_a_path_that_cannot_be_used(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sensor config check` reports it like any other fault."""
    monkeypatch.setenv(f"SENSOR_{setting.upper()}", f"{tmp_path}/{LONG}/x")
    done = sensor("config", "check")
    assert (done.code, done.err) == (2, "")
    assert f"{setting}: {tmp_path}/{LONG}" in done.out
    assert "cannot be used: File name too long" in done.out
