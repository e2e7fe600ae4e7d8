"""The API process ends with its parent, however that ends, and is started again when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from api_samples import addresses, environment, evidence_item, keep
from click.testing import CliRunner
from processes import is_running, wait_until

from sensor.cli import cli
from sensor.cli.serve import serve_command
from sensor.config.loading import load_settings
from sensor.config.settings import Settings
from sensor.live.api_process import SETTINGS, flags


class Parent(NamedTuple):
    """A process that has started an API process."""

    process: subprocess.Popen[str]
    api: int
    log: Path


@contextmanager
def parent(directory: Path) -> Iterator[Parent]:
    """Start a parent with one item of evidence, and wait until its API answers."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    log = directory / "log"
    program = [sys.executable, Path(__file__).with_name("api_parent.py"), evidence]
    with (
        log.open("w") as output,
        subprocess.Popen(
            program, stdout=subprocess.PIPE, stderr=output, text=True, env=environment()
        ) as process,
    ):
        try:
            assert process.stdout
            api = int(process.stdout.readline())
            wait_until(lambda: addresses(log))
            yield Parent(process, api, log)
        finally:
            process.kill()
    wait_until(lambda: not any(is_running(pid) for pid in api_processes(evidence)))


def api_processes(evidence: Path) -> list[int]:
    """Return the processes that serve this evidence."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "serve" in words and str(evidence) in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_its_parent(directory: Path, number: signal.Signals) -> None:
    """The parent ends normally, or by kill -9."""
    with parent(directory) as running:
        assert is_running(running.api)
        running.process.send_signal(number)
        running.process.wait(30)
        wait_until(lambda: not is_running(running.api))


def test_it_is_started_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says that it died. It gets the same settings again, even if the settings file has changed."""
    config = directory / "sensor.toml"
    config.write_text("request_rate = 50\n")
    monkeypatch.setenv("SENSOR_CONFIG", str(config))
    with parent(directory) as running:
        config.write_text("no settings any more")
        os.kill(running.api, signal.SIGKILL)
        wait_until(lambda: len(addresses(running.log)) == 2)
        assert "the API died (exit code -9); capture continues" in running.log.read_text()
        answer = httpx.get(f"{addresses(running.log)[1]}/api/v1/status", trust_env=False)
        assert answer.json()["devices"][0]["pieces"] == 1


def test_flags_for_all_settings() -> None:
    """`sensor serve` has a flag for each of its settings, and reads the values it is given."""
    settings = Settings(
        lenient=True, token_required=True, audit=Path("a b"), listen="[::1]:1", request_rate=7
    )
    with serve_command.make_context("serve", flags(settings)) as context:
        given = {name: value for name, value in context.params.items() if name in Settings.model_fields}
    assert load_settings(given) == settings
    assert set(given) == set(SETTINGS)


def test_tokens_on_the_command_line(tmp_path: Path) -> None:
    """Tokens are created, listed and revoked; errors are reported."""

    def sensor(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["token", *arguments, "--evidence", str(tmp_path)])
        return result.output if result.exit_code == 0 else str(result.exception)

    text = sensor("create", "ann", "--role", "admin").strip()
    assert text.startswith("sensor_")
    assert text not in (tmp_path / "tokens.json").read_text()
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o640
    sensor("create", "bob")
    assert [line.split()[:2] for line in sensor("list").splitlines()] == [["ann", "admin"], ["bob", "read"]]
    assert "already" in sensor("create", "ann")
    assert "invalid token name" in sensor("create", "a b")
    sensor("revoke", "ann")
    assert [line.split()[0] for line in sensor("list").splitlines()] == ["bob"]
    assert "no token is named 'ann'" in sensor("revoke", "ann")
    (tmp_path / "tokens.json").write_text("{}")
    assert "is damaged" in sensor("list")
