"""The documentation is true: every command in it runs, and every table agrees with the code."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sensor.bench.private_network import veth_pair
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.cli import cli
from sensor.config.settings import Settings
from sensor.errors import SensorError
from sensor.rules.engine.budget import PAYLOAD_NS, SHORT_NS
from sensor.rules.engine.expression import expression
from sensor.rules.engine.profile import PROFILES
from sensor.rules.engine.scan import SLICE
from sensor.rules.files.fields import FIELDS, REQUIRED, RULE_ID
from sensor.rules.regex.tree import RegexError
from tests.api.api_samples import open_directory

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RULES = (ROOT / "docs" / "rules.md").read_text()
BENCH = (ROOT / "docs" / "bench.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
DOCTOR = (ROOT / "docs" / "doctor.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
EVENTS = (ROOT / "docs" / "events.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
EVIDENCE = (ROOT / "docs" / "evidence.md").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
FIGURE = {"match": "http request", "store": "items per second"}
"""Words that a measurement must print, if no other test reads its output."""
LOADS = re.compile("sensor (run|doctor|status|bench (kernel|ring))")
NEEDS_SENSOR = re.compile("sensor (status|rules reload)")
NAMED = ("sensor read", "sensor run", "sensor evidence", "sensor bench store", "sensor selftest")
"""Commands that sentences only name: they need arguments, or are run by the tests of another page."""
OTHERWISE_RUN = ("make demo", "make test", "sensor serve", "sensor doctor eth1 --selftest")
"""Commands that other tests run, or the person who runs this one."""


def commands(document: str) -> list[str]:
    """Return every command in a shell block, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", document, re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and line not in OTHERWISE_RUN]


def cases(*documents: str) -> list[Any]:
    """Return the commands of documents; those that load the XDP program are marked."""
    return [
        pytest.param(command, marks=pytest.mark.kernel if LOADS.match(command) else ())
        for document in documents
        for command in commands(document)
    ]


def inline_commands(document: str) -> list[str]:
    """Return every command in a sentence, each once."""
    text = re.sub(r"```.*?```", "", document, flags=re.DOTALL)
    return list(dict.fromkeys(re.findall(r"`(sensor [a-z][^`]*)`", text)))


def inline_cases(*documents: str) -> list[Any]:
    """Return the commands in sentences, without those that are only named there."""
    return [
        pytest.param(command, marks=pytest.mark.kernel if NEEDS_SENSOR.match(command) else ())
        for command in inline_commands("\n".join(documents))
        if command not in NAMED
    ]


def run(command: str, directory: Path, **variables: str) -> str:
    """Run a command as the user's shell does, and return its output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **variables}
    done = subprocess.run(
        ["bash", "-c", command], check=True, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


@pytest.mark.usefixtures("network", "use_few_rules")
@pytest.mark.parametrize("command", cases(README, EVENTS, DOCTOR, SETTINGS))
def test_commands_of_readme_events_and_doctor_page_run(tmp_path: Path, command: str) -> None:
    """Each works as written, on a host with these interfaces and files."""
    for left, right in (("eth1", "peer1"), ("eth2", "peer2")):
        veth_pair(left, right)
    frames = mix.demo(seed=1).frames
    write_capture(tmp_path / "capture.pcap", frames)
    subprocess.run(["tshark", "-r", "capture.pcap", "-w", "capture.pcapng"], check=True, cwd=tmp_path)
    variables = {"SENSOR_DURATION": "0.2", "SENSOR_EVIDENCE": str(tmp_path / "evidence")}
    if "--config sensor.toml" in command:
        run("sensor config init sensor.toml", tmp_path)
    if command.startswith("sensor evidence"):
        run("sensor read capture.pcap", tmp_path, **variables)
    with sensor_running(tmp_path) if command == "sensor status" else nullcontext():
        shown = run(command, tmp_path, **variables)
    if command.startswith("sensor bench"):
        assert FIGURE.get(command.split()[2], "") in shown


@contextmanager
def sensor_running(directory: Path) -> Iterator[None]:
    """Run the sensor on eth1 until the end of the block."""
    command = [sys.executable, "-m", "sensor", "run", "-i", "eth1", "--no-api", "--evidence", directory]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            assert any("capturing on" in line for line in process.stderr)
            yield
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_the_session_in_the_readme(tmp_path: Path) -> None:
    """Each command prints what the page shows, one after the other; ``…`` stands for lines left out."""
    [session] = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for step in session.removeprefix("$ ").split("\n$ "):
        command, *lines = step.splitlines()
        shown = run(f"{command} 2>&1 >&1 | grep -v ' INFO '", tmp_path)
        pattern = "".join("(.*\n)*" if line == "…" else re.escape(line) + "\n" for line in lines)
        assert re.fullmatch(pattern, shown), shown


@pytest.mark.usefixtures("network", "use_few_rules")
@pytest.mark.parametrize("command", inline_cases(EVIDENCE, RUNBOOK))
def test_commands_of_evidence_page_and_runbook_run(tmp_path: Path, few_rules: Path, command: str) -> None:
    """Each works as written, beside a running sensor if it needs one."""
    veth_pair("eth1", "peer1")
    variables = {"SENSOR_EVIDENCE": str(tmp_path)}
    write_capture(tmp_path / "capture.pcap", mix.demo(seed=1).frames)
    run("sensor read capture.pcap", tmp_path, **variables)
    with sensor_running(tmp_path) if NEEDS_SENSOR.match(command) else nullcontext():
        run(command.replace("DIRECTORY", str(few_rules)), tmp_path, **variables)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_flags_exist(page: Path) -> None:
    """Each command in a block or a sentence is one of the program, with flags that it has."""
    for command in inline_commands(page.read_text()) + commands(page.read_text()):
        words = list(takewhile(lambda word: word not in "|>&&", shlex.split(command)))
        if words[0] == "sensor":
            done = CliRunner().invoke(cli, [*words[1:], "--help"])
            assert done.exit_code == 0, (command, done.output)


@pytest.mark.usefixtures("use_few_rules")
@pytest.mark.parametrize("command", commands(RULES))
def test_commands_of_the_rules_page_run(tmp_path: Path, command: str) -> None:
    """Each works as written, next to the page's own rule and a capture file."""
    [rules] = re.findall(r"```json\n(.*?)```", RULES, re.DOTALL)
    (tmp_path / "my-rules").mkdir()
    (tmp_path / "my-rules" / "threat.json").write_text(rules)
    write_capture(tmp_path / "capture.pcap", mix.demo(seed=1).frames)
    shown = run(command, tmp_path)
    if "rules test" in command:
        assert f"The test prints `{shown.strip()}`" in RULES


@pytest.mark.usefixtures("network", "use_few_rules")
def test_commands_of_the_api_page_run() -> None:
    """Each works as written, in this order; servers keep running."""
    with open_directory() as directory, ExitStack() as servers:
        write_capture(directory / "capture.pcap", mix.demo(seed=1).frames)
        for command in commands(API):
            if command.startswith("sensor serve"):
                servers.enter_context(serving_in_background(command, directory))
            else:
                shown = run(command, directory)
                assert "time=" not in command or json.loads(shown), command
        assert (directory / "threats.pcapng").stat().st_size > 1000


@pytest.mark.kernel
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("use_few_rules")
def test_commands_of_the_bench_page_run(tmp_path: Path) -> None:
    """Each works as written, in this order."""
    write_capture(tmp_path / "capture.pcap", mix.demo(seed=1).frames)
    for command in commands(BENCH):
        if "after.json" in command:  # the page measures once, the reader twice
            shutil.copyfile(tmp_path / "before.json", tmp_path / "after.json")
        run(command, tmp_path)


@contextmanager
def serving_in_background(command: str, directory: Path) -> Iterator[None]:
    """Run a command that serves the page until the end of the block."""
    process = subprocess.Popen([sys.executable, "-m", *command.split()], cwd=directory)
    try:
        wait_for_port(process, 8321)
        yield
    finally:
        process.terminate()
        assert process.wait(20) == 0


def wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the process listens there, or has ended."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return


def rows(document: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its header."""
    lines = document.split(f"## {heading}\n")[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    table = takewhile(lambda line: line.startswith("|"), lines[start + 1 :])
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_the_rules_page_lists_every_field() -> None:
    """It lists exactly the fields of the loader, with the expected values."""
    key, *fields = rows(RULES, "Fields")
    assert key[1] == RULE_ID.expected
    assert [field.strip("`") for field, *_ in fields] == list(FIELDS)
    for field, value, _ in fields:
        name = field.strip("`")
        assert value.removesuffix("; required").startswith(FIELDS[name].expected)
        assert value.endswith("; required") == (name in REQUIRED)


def test_the_rules_page_lists_every_profile() -> None:
    """It has every value of every profile."""
    words = {True: "yes", False: "no"}
    table = rows(RULES, "Flows and profiles")
    for column, name in enumerate(("default", "ly_probe", "thorough"), 1):
        profile = PROFILES[name]
        cells = [row[column] for row in table]
        requests = [word.decode().strip() for word in profile.http.beginnings if word != b"HTTP/1"]
        flow = "these, and the type of service" if profile.flow_has_tos else "protocol, endpoints, VLAN"
        once = "the first rule of each class; each class once per flow" if profile.once else "all"
        assert cells == [
            str(profile.longest or "any"),
            str(profile.depth or "all"),
            words[profile.http_at_any_depth],
            ", ".join(f"`{word}`" for word in requests),
            once,
            flow,
            str(profile.idle_s),
            str(profile.life_s),
            words[profile.ends_in_files],
        ]


@pytest.mark.parametrize("row", rows(RULES, "The regular expression"), ids=lambda row: row[0])
def test_expressions_that_the_rules_page_calls_refused_are_refused(row: list[str]) -> None:
    """The examples are refused, and the alternatives are accepted."""
    with pytest.raises(RegexError):
        expression(row[1].strip("`"))
    for instead in re.findall("`(.+?)`", row[2]):
        expression(instead)


def test_the_rules_page_says_when_a_scan_is_cut() -> None:
    """The limits in bytes and milliseconds are those of the code."""
    assert f"up to {SLICE:,} bytes" in RULES
    assert f"after {SHORT_NS / 1e3:g} µs of CPU time" in RULES
    assert f"{PAYLOAD_NS / 1e6:g} ms at 64 KiB" in " ".join(RULES.split())


def test_the_table_lists_every_setting() -> None:
    """Name and default of each setting are in the table; a default that has no value is in words."""
    table = {
        name.split("`")[1]: default.strip("`") for name, _, default, *_ in rows(SETTINGS, "All settings")
    }
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert list(table) == list(defaults)
    for name, default in defaults.items():
        if default in (None, ()) or name == "rules":
            assert re.fullmatch("[A-Za-z, ]+", table[name]), name
        else:
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            assert table[name] in (shown, shown.lower()), name


def test_the_doctor_page_lists_every_check() -> None:
    """It lists exactly the checks in the code."""
    sources = [ROOT / "sensor" / "capture" / "refusals.py"]
    sources += [path for room in ("doctor", "selftest") for path in (ROOT / "sensor" / room).glob("*.py")]
    text = "".join(source.read_text() for source in sources)
    named = set(re.findall(r'check="([a-z-]+)"', text)) | {"metrics", "listen"}  # these by a setting's name
    assert {check.strip("`") for check, *_ in rows(DOCTOR, "What it checks")} == named


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes from the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file of the tree names one that exists, and each anchor is a heading of its page."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_exit_codes_are_listed() -> None:
    """The page lists every exit code of the exception tree."""
    codes = {error.exit_code for error in [SensorError, *SensorError.__subclasses__()]}
    [line] = [line for line in SETTINGS.splitlines() if line.startswith("Exit codes:")]
    assert {int(code) for code in re.findall(r"\d", line)} == codes | {0}
