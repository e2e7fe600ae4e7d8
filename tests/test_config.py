"""Settings: which source wins, and how faults are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.config.loading import load_settings
from sensor.errors import SettingsError


def test_a_later_source_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags override the environment, which overrides the file, which overrides the defaults."""
    config = tmp_path / "sensor.toml"
    config.write_text('devid = 4\nring-mib = 8\nkeep = "threat"\ninterface = ["eth1", "eth2"]\n')
    monkeypatch.setenv("SENSOR_RING_MIB", "16")
    monkeypatch.setenv("SENSOR_KEEP", "flow")
    settings = load_settings({"keep": "any", "snaplen": None}, config)
    assert settings.interface == ("eth1", "eth2")
    assert (settings.devid, settings.ring_mib, settings.keep, settings.snaplen) == (4, 16, "any", 65535)


def test_a_list_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are separated by commas."""
    monkeypatch.setenv("SENSOR_INTERFACE", "eth1, eth2")
    assert load_settings({}).interface == ("eth1", "eth2")


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path stays the same file when a thread changes the working directory later."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "sensor.toml"
    config.write_text('audit = "audit.jsonl"\n')
    monkeypatch.setenv("SENSOR_RULES", "rules")
    settings = load_settings({"evidence": Path("evidence")}, config)
    for path, name in (
        (settings.audit, "audit.jsonl"),
        (settings.rules, "rules"),
        (settings.evidence, "evidence"),
    ):
        assert path == tmp_path / name


def test_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are a table in the file, a list with commas in the variable, and repeated flags."""
    config = tmp_path / "sensor.toml"
    config.write_text('[networks]\ninclude = ["10.0.0.0/8", "fd00::/8"]\n')
    monkeypatch.setenv("SENSOR_NETWORKS_EXCLUDE", "10.1.0.0/16,192.0.2.1")
    settings = load_settings({"networks_include": None}, config)
    assert list(map(str, settings.networks_include)) == ["10.0.0.0/8", "fd00::/8"]
    assert list(map(str, settings.networks_exclude)) == ["10.1.0.0/16", "192.0.2.1/32"]
    flags = {"networks_include": ("172.16.0.0/12",)}
    assert list(map(str, load_settings(flags, config).networks_include)) == ["172.16.0.0/12"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rings = 3", "rings: there is no such setting"),
        ("ring-mib = 3", "ring_mib: must be a power of two (is 3)"),
        ("snaplen = 1", "snaplen: Input should be greater than or equal to 128 (is 1)"),
        ('mode = "fast"', "mode: Input should be 'native' or 'generic' (is 'fast')"),
        ("[networks]\ninclude = ['10.0.0.1/8']", "networks_include: 10.0.0.1/8 has host bits set"),
        ("[networks]\nexclude = ['lan']", "networks_exclude: 'lan' does not appear to be an IPv4 or IPv6"),
        ("workers = 0", "workers: Input should be greater than or equal to 1 (is 0)"),
        ("devid = ", "not a TOML file"),
        ("devid = " + "[" * 5000, "nested too deeply, or too long"),
        ("devid = " + "9" * 5000, "nested too deeply, or too long"),
        ('evidence = "/a\\u0000"', "evidence: must not contain control characters"),
        ('events = ["file:/a\\nb"]', "events: must not contain control characters"),
        ('api_user = "\\u001b[31m"', "api_user: must not contain control characters"),
        ("duration = inf", "duration: Input should be a finite number"),
        ('listen = "127.0.0.1:+80"', "listen: must be an address and a port"),
    ],
)
def test_faults_are_named(tmp_path: Path, content: str, message: str) -> None:
    """An error is one line with the setting, the fault and the value."""
    config = tmp_path / "sensor.toml"
    config.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load_settings({}, config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_variable_that_is_not_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a path could not be passed on to other processes."""
    monkeypatch.setenv("SENSOR_EVIDENCE", "/data/\udcff")
    with pytest.raises(SettingsError, match="evidence: must not contain control characters, or bytes"):
        load_settings({})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A settings file that does not exist is an error."""
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read"):
        load_settings({}, tmp_path / "nowhere.toml")
