"""Rules are compiled in a child process with limits; one that needs too much is refused by name."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from sensor.errors import RulesError
from sensor.rules.compilation import rule_compiler
from sensor.rules.compilation.compiler_task import CompilerLimits
from sensor.rules.compilation.ready_codec import Ready
from sensor.rules.compilation.rule_compiler import compile_rules
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.files.rule_fault import FaultyRulesError
from sensor.rules.files.rule_sources import RuleSources
from sensor.rules.progress import Progress

HARMLESS = "harmless"
COSTLY = "(?=[a-z]{1,30})(?=[a-f0-9]{1,31})(?![a-z]{2,30}q)[^x]+z"
"""It needs a hundred times the CPU time of a usual rule."""
SHORT = CompilerLimits(rule_cpu_s=0.05)


def write(directory: Path, *regexes: str) -> Path:
    """Write rules with the ids 1, 2, ... to a file."""
    rules = {
        str(number): {"type": "T", "name": "N", "regex": regex} for number, regex in enumerate(regexes, 1)
    }
    (directory / "threat.json").write_text(json.dumps({"threat": {"rules": rules}}, indent=0))
    return directory


def compiled(directory: Path, *, lenient: bool = False, **options: Any) -> Ready:
    """Compile the rules of a directory."""
    return compile_rules(RuleSources.read(directory), RFC9110, lenient=lenient, **options)


def refusal(directory: Path, **options: Any) -> str:
    """Return why the rules of a directory are refused."""
    with pytest.raises(FaultyRulesError) as error:
        compiled(directory, **options)
    return str(error.value)


def test_a_rule_that_needs_too_much_cpu_time_is_named(tmp_path: Path) -> None:
    """The fault names file, line and rule; the rules before it were fine."""
    write(tmp_path, HARMLESS, COSTLY, HARMLESS)
    assert refusal(tmp_path, limits=SHORT).startswith(
        f"{tmp_path}/threat.json:9: rule 2: regex: it needs more than 0.05 s of CPU time to compile"
    )


def test_all_costly_rules_are_found(tmp_path: Path) -> None:
    """A check names each of them, beside other faults."""
    write(tmp_path, COSTLY, HARMLESS, COSTLY + "z", "(")
    lines = refusal(tmp_path, limits=SHORT, find_all=True).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["rule 1", "rule 3", "rule 4"]


def test_a_lenient_load_skips_it(tmp_path: Path) -> None:
    """The other rules work."""
    ready = compiled(write(tmp_path, COSTLY, HARMLESS), limits=SHORT, lenient=True)
    assert [fault.rule_id for fault in ready.rules.faults] == ["1"]
    assert [match.rule.rule_id for match in ready.matcher.match(b"harmless", 6, 1, 2)] == [2]


def test_rules_that_need_too_much_together(tmp_path: Path) -> None:
    """No single one is to blame: the message says what is too much, and which rule is the largest."""
    write(tmp_path, *(f"{number}x{{1,{number}}}y" for number in range(1, 400)))
    found = refusal(tmp_path, limits=CompilerLimits(cpu_s=1))
    assert found.startswith(f"{tmp_path}: the 399 rules together need more than 1 s of CPU time to compile")


@pytest.mark.parametrize("regex", [COSTLY, HARMLESS])
def test_too_little_memory(tmp_path: Path, regex: str) -> None:
    """The kernel refuses more memory, which is a fault of the rules and no traceback."""
    found = refusal(write(tmp_path, regex), limits=CompilerLimits(memory_mib=1))
    assert (
        "more than 1 MiB of memory" in found or "Hyperscan cannot compile" in found or "RE2 cannot" in found
    )


def test_a_file_that_takes_too_long_to_parse_is_named(tmp_path: Path) -> None:
    """Reading has a limit of its own."""
    (tmp_path / "os.json").write_text('{"os": {"rules": {"1": [' + "{}," * 300_000 + "0]}}}")
    found = refusal(tmp_path, limits=CompilerLimits(file_cpu_s=0.01))
    assert found.startswith(f"{tmp_path}/os.json: the file needs more than 0.01 s of CPU time")


def test_a_result_that_is_too_large(tmp_path: Path) -> None:
    """The kernel does not let the result grow beyond its limit."""
    assert "need more than 0 MiB of memory for the result" in refusal(
        write(tmp_path, HARMLESS), limits=CompilerLimits(result_mib=0)
    )


def test_the_clock(tmp_path: Path) -> None:
    """A process that stands still is ended."""
    found = refusal(write(tmp_path, HARMLESS), limits=CompilerLimits(wall_s=0))
    assert found == f"{tmp_path}: the rules need more than 0 s to compile; use fewer or smaller ones"


def test_a_killed_process(tmp_path: Path) -> None:
    """It is one line; nothing hangs."""

    def kill(_progress: Progress) -> None:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):  # it has been killed, or is one of another test
                if "sensor.rules.compilation.compiler_process" in child.cmdline():
                    child.send_signal(signal.SIGKILL)

    # So many that it is not done before the first news of its progress is read.
    rules = write(tmp_path, *(f"{HARMLESS}{number}" for number in range(1000)))
    assert "was killed" in refusal(rules, watch=kill)


def test_no_process_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says so."""
    monkeypatch.setattr(rule_compiler, "COMMAND", [str(tmp_path / "missing")])
    with pytest.raises(RulesError, match="no process can be started"):
        compiled(write(tmp_path, HARMLESS))


def test_progress_goes_through_the_rules(tmp_path: Path) -> None:
    """It is shown in words."""
    seen: list[Progress] = []
    compiled(write(tmp_path, *(f"{HARMLESS}{number}" for number in range(300))), watch=seen.append)
    assert {progress.total for progress in seen} <= {0, 300}
    assert seen == sorted(seen, key=lambda progress: (progress.phase, progress.number))
    assert Progress.unpack(b"\xff" * len(Progress().pack())) == Progress()


def test_files_that_are_no_files(tmp_path: Path) -> None:
    """Pipes, directories, devices without end and files that are too large are faults; nothing waits."""
    os.mkfifo(tmp_path / "service.json")
    (tmp_path / "device.json").mkdir()
    (tmp_path / "os.json").symlink_to("/dev/zero")
    with (tmp_path / "midware.json").open("wb") as file:
        file.truncate(1 << 40)
    write(tmp_path, HARMLESS)
    lines = [line.removeprefix(f"{tmp_path}/") for line in refusal(tmp_path).splitlines()]
    assert lines == [
        "service.json: cannot be read: it is not a regular file",
        "device.json: cannot be read: Is a directory",
        "os.json: cannot be read: it is not a regular file",
        "midware.json: cannot be read: the rule files together have more than 32 MiB; use smaller ones",
    ]
    assert len(compiled(tmp_path, lenient=True).rules) == 1
