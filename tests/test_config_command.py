"""`sensor config`: values and their sources, faults, and the template of a settings file."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from sensor.config.loading import load_settings
from sensor.config.settings import BUNDLED_RULES, Settings
from tests.rules.commands import Done, sensor


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SENSOR_")]:
        monkeypatch.delenv(name)


def check(directory: Path, content: str) -> Done:
    """Run `sensor config check` with a file of this content."""
    (directory / "sensor.toml").write_text(content)
    return sensor("config", "check", "--config", directory / "sensor.toml")


def test_every_value_and_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value is the one that commands use; the source is the last one that sets it."""
    config = tmp_path / "sensor.toml"
    config.write_text('keep = "threat"\ndevid = 7\n[networks]\ninclude = ["10.0.0.0/8"]\n')
    monkeypatch.setenv("SENSOR_KEEP", "flow")
    [shown] = sensor("config", "show", "--json", "--config", config).objects
    assert list(shown) == list(Settings.model_fields)
    assert {name: one["value"] for name, one in shown.items()} == load_settings({}, config).model_dump(
        mode="json"
    )
    assert {name: one["source"] for name, one in shown.items() if one["source"] != "default"} == {
        "keep": "variable SENSOR_KEEP",
        "devid": f"file {config}",
        "networks_include": f"file {config}",
    }
    lines = sensor("config", "show", "--config", config).out.splitlines()
    assert [line.split()[0] for line in lines] == list(Settings.model_fields)
    assert 'keep                 "flow"                         variable SENSOR_KEEP' in lines


def test_a_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SENSOR_CONFIG names the settings file; the flag overrides it."""
    for name, devid in (("deployed", 11), ("other", 12)):
        (tmp_path / name).write_text(f"devid = {devid}\n")
    monkeypatch.setenv("SENSOR_CONFIG", str(tmp_path / "deployed"))
    assert load_settings({}).devid == 11
    assert load_settings({}, tmp_path / "other").devid == 12
    monkeypatch.setenv("SENSOR_CONFIG", str(tmp_path / "nowhere"))
    done = sensor("config", "show")
    assert (done.code, done.err) == (
        2,
        f"sensor: {tmp_path}/nowhere: cannot be read: No such file or directory\n",
    )


def test_no_fault(tmp_path: Path) -> None:
    """The command prints `ok`."""
    assert check(tmp_path, "devid = 4\n") == (0, "ok\n", "")


def test_every_fault_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault is a line with its source: names, values, and what they refer to on this host."""
    monkeypatch.setenv("SENSOR_FLOWS", "many")
    (tmp_path / "key.pem").write_text("no key")
    done = check(
        tmp_path,
        f"""
        ring-mb = 8
        snaplen = 1
        keep = ["threat"]
        rules = "{tmp_path}/rules"
        evidence = "{tmp_path}/key.pem"
        events = ["smtp://nowhere", "file:/"]
        api_user = "no-one-here"
        audit = "{tmp_path}/nowhere/audit"
        tls_cert = "{tmp_path}/cert.pem"
        tls_client_ca = "{tmp_path}/key.pem"
        """,
    )
    file = f", from file {tmp_path}/sensor.toml"
    assert done.code == 2
    assert set(done.out.splitlines()) == {
        f"ring_mb: there is no such setting; did you mean ring_mib?{file}",
        f"snaplen: Input should be greater than or equal to 128 (is 1){file}",
        f"keep: Input should be 'threat', 'any' or 'flow' (is ['threat']){file}",
        "flows: Input should be a valid integer, unable to parse string as an integer (is 'many')"
        ", from variable SENSOR_FLOWS",
        f"rules: {tmp_path}/rules: there is no such directory",
        f"evidence: {tmp_path}/key.pem: is not a directory",
        "events: smtp://nowhere: must start with one of file:, unix:, syslog+udp:, syslog+tcp:, syslog+tls:",
        "events: file:/: /: a directory is in the place of a regular file",
        "api_user: there is no user 'no-one-here' on this host",
        f"audit: {tmp_path}/nowhere: there is no such directory",
        "tls_cert and tls_key: set both, or neither",
        f"tls_cert: {tmp_path}/cert.pem: cannot be read: No such file or directory",
    }


def test_certificates_that_openssl_refuses(tmp_path: Path) -> None:
    """The private key of another certificate is a fault."""
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=sensor -days 1"
    for name in ("one", "two"):
        files = ["-out", f"{name}.pem", "-keyout", f"{name}.key"]
        subprocess.run([*new.split(), *files], check=True, cwd=tmp_path, capture_output=True)
    settings = f'tls_cert = "{tmp_path}/one.pem"\ntls_key = "{tmp_path}/%s.key"\n'
    assert check(tmp_path, settings % "one").out == "ok\n"
    done = check(tmp_path, settings % "two")
    assert (done.code, done.out.count("\n")) == (2, 1)
    assert "KEY_VALUES_MISMATCH" in done.out


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    """It is an error instead of a list of faults."""
    done = check(tmp_path, "devid = \n")
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"sensor: .*sensor\.toml: not a TOML file: .*\n", done.err)


def test_a_directory_without_rules(tmp_path: Path) -> None:
    """The fault names the files that were expected."""
    assert "contains none of service.json" in check(tmp_path, f'rules = "{tmp_path}"').out


def test_a_misspelt_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a warning and not a fault: it may belong to another program."""
    monkeypatch.setenv("SENSOR_RINGMIB", "8")
    monkeypatch.setenv("SENSOR_CONFIG", str(tmp_path / "sensor.toml"))
    done = check(tmp_path, "")
    assert done == (0, "ok\n", "SENSOR_RINGMIB: there is no such setting; did you mean SENSOR_RING_MIB?\n")


def test_the_template(tmp_path: Path) -> None:
    """It changes nothing; with every setting uncommented, all values are valid."""
    path = tmp_path / "sensor.toml"
    assert sensor("config", "init", path) == (0, "", "")
    text = path.read_text()
    assert sensor("config", "init").out == text
    assert load_settings({}, path) == Settings()
    path.write_text(re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE))
    settings = load_settings({}, path)
    assert settings.model_fields_set == set(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        if not field.examples:
            assert getattr(settings, name) == field.default
        assert " ".join((field.description or "").replace("``", "`").split()) in " ".join(
            text.replace("\n# ", " ").split()
        )
    assert settings.rules != BUNDLED_RULES


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    """An existing file is an error."""
    path = tmp_path / "sensor.toml"
    path.write_text("devid = 4\n")
    done = sensor("config", "init", path)
    assert done.code == 2
    assert f"{path}: already exists" in done.err
    assert path.read_text() == "devid = 4\n"
    assert "cannot be written: No such file" in sensor("config", "init", tmp_path / "no" / "file").err
