"""Text of strangers, in packets, rules and names of files, is shown on terminals and in logs, not executed.

Each command that prints some is tried in each of its formats.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any, NamedTuple

import pytest

from sensor.api.json_response import AsciiJson
from sensor.bench.traffic.frames import (
    ACK,
    ETHERTYPE_IPV4,
    PSH,
    Frame,
    Host,
    ethernet,
    packets,
    tcp,
    write_capture,
)
from sensor.events.eve import EventOptions, Packet, alerts, objects
from sensor.events.socket_receivers import syslog
from sensor.log import _JournalLine, _TerminalLine
from sensor.metrics import catalogue as c
from sensor.model import Evidence, FiveTuple, Match, Rule
from sensor.protocols import TCP
from sensor.text import shown, shown_lines, to_json
from tests.rules.commands import sensor

HOSTILE = "\x1b]0;owned\x07\r\b\u009b31m\u202eevil\u2066\u200f\u061c\x7f\u2028\u200b\ufeff\U000e0041\ud800"
SENT = HOSTILE.encode("utf-8", "ignore").replace(b"\r", b"")
"""The same as a server sends it."""
INVISIBLE = "\u2800\u3164\u034f\ufe0f"
"""Characters that Python takes for printable."""
NAME = "Banner\u200b\u2800 of a server"
"""The label of a rule, as far as rules may have such labels."""
NOON_US = 1_767_607_200_000_000
OPTIONS = EventOptions("host", 3, 100, "https://sensor.example")


def assert_harmless(text: str) -> None:
    """Fail if there is a character that a terminal executes or that nobody sees."""
    assert [one for one in text if not (one.isprintable() or one == "\n") or one in INVISIBLE] == []


class Site(NamedTuple):
    """A capture file, rules, and the evidence that they make."""

    capture: Path
    rules: Path
    evidence: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return a site where rule, packet and file are those of a stranger."""
    base = tmp_path_factory.mktemp("hostile")
    (base / "rules").mkdir(parents=True)
    rule = {"type": NAME, "name": NAME, "regex": "Server: (\x1b[^\r\n]+)", "desc": HOSTILE[:-1]}
    rule |= {"vendor": NAME, "os": NAME, "context": True}
    (base / "rules" / "device.json").write_text(json.dumps({"device": {"rules": {"21031": rule}}}))
    server = Host(bytes.fromhex("02005e000001"), ip_address("203.0.113.7"))
    client = Host(bytes.fromhex("020010000001"), ip_address("192.0.2.10"))
    payload = b"HTTP/1.1 200 OK\r\nServer: " + SENT + b"\r\n" + SENT + b": " + SENT + b"\r\n\r\n"
    body = tcp(server.address, 80, client.address, 40000, seq=1, ack=1, flags=PSH | ACK, payload=payload)
    [packet] = packets(server, client, TCP, body, identification=1)
    frame = Frame(NOON_US, ethernet(server.mac, client.mac, ETHERTYPE_IPV4, packet))
    write_capture(base / "a\x1b.pcap", [frame])
    site = Site(base / "a\x1b.pcap", base / "rules", base / "evidence")
    assert sensor("read", site.capture, "--rules", site.rules, "--evidence", site.evidence).code == 0
    return site


COMMANDS = (
    "read {capture} --rules {rules}",
    "rules list --rules {rules}",
    "rules show 21031 --rules {rules}",
    "rules explain {capture} --rules {rules}",
    "rules explain {capture} --packet 1 --rules {rules}",
    "rules plan --rules {rules}",
    "rules stats --payloads {capture} --rules {rules}",
    "evidence list --evidence {evidence}",
    f"evidence show {NOON_US} --evidence {{evidence}}",
    f"evidence conversation {NOON_US} --evidence {{evidence}}",
    "evidence conversations --evidence {evidence}",
    "evidence verify --evidence {evidence}",
)


@pytest.mark.parametrize("format_flag", ["", "--json"])
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(site: Site, command: str, format_flag: str) -> None:
    """A terminal executes nothing of what a command prints; it is there, but escaped."""
    arguments = [word.format(**site._asdict()) for word in [*command.split(), *format_flag.split()]]
    done = sensor(*arguments)
    assert done.code == 0, done.err
    assert_harmless(done.out)
    assert_harmless(done.err)
    if format_flag:
        for line in done.out.splitlines():
            json.loads(line)
    if not command.startswith(("evidence verify", "rules plan")):
        assert r"\u200b" in done.out or "--packet" in command


def test_what_was_sent_is_in_the_json(site: Site) -> None:
    """Escapes of JSON stand for the very text that was sent."""
    done = sensor("read", site.capture, "--rules", site.rules, "--json")
    assert json.loads(done.out)["version"] == SENT.decode("utf-8", "backslashreplace")


FAULTY = (
    ["rules", "check", "{here}/faulty"],
    ["rules", "list", "--rules", "{here}/nowhere\x1b[31m"],
    ["read", "{here}/no\x1b[31m\u202efile.pcap"],
    ["evidence", "list", "--evidence", "{here}/no\x1b[31m\u202e"],
    ["evidence", "export", "{here}/no\x1b[31m\u202e.txt"],
    ["evidence", "show", "\x1b[31m"],
    ["rules", "show", "\x1b[31m"],
    ["serve", "--listen", "\x1b[31m"],
    ["\x1b[31m"],
    ["read", "--\x1b[31m"],
)


@pytest.mark.parametrize("command", FAULTY, ids=map(repr, FAULTY))
def test_error_messages(command: list[str], tmp_path: Path) -> None:
    """Error messages repeat names and values, but escaped."""
    (tmp_path / "faulty").mkdir()
    faulty = {"service": {"rules": {"11": {"type": "t", "name": HOSTILE, "regex": "(", HOSTILE: HOSTILE}}}}
    (tmp_path / "faulty" / "service.json").write_text(json.dumps(faulty))
    done = sensor(*[word.format(here=tmp_path) for word in command])
    assert done.code != 0
    text = done.out + done.err
    assert any(escape in text for escape in (r"\x1b", r"\u001b", r"\u202e"))  # click removes some from pipes
    assert_harmless(done.out)
    assert_harmless(done.err)


def hostile_item() -> Evidence:
    """Return evidence of rules whose every text is hostile, as an index may hold it."""
    rule = Rule(1, "threat", HOSTILE, HOSTILE, "x", version=HOSTILE, vendor=HOSTILE, os=HOSTILE)
    frame, five_tuple = SENT, FiveTuple(6, bytes(4), 1, bytes(4), 2)
    match = Match(rule, 0, len(SENT), HOSTILE)
    return Evidence(frame, 0, len(frame), 1, 1, five_tuple, (), 0, len(frame), (match,), incomplete=False)


@pytest.mark.parametrize("is_alert", [True, False])
def test_events(is_alert: bool) -> None:
    """Lines of EVE, syslog and ``run --json`` are valid JSON in printable ASCII."""
    found = [Packet(hostile_item(), Path(HOSTILE), 24, HOSTILE)]
    [event] = alerts(found, OPTIONS) if is_alert else objects(found)
    fields = json.loads(event.line)
    assert (fields["alert"]["signature"] if is_alert else fields["name"]) == HOSTILE
    for line in (event.line, syslog(event)):
        assert_harmless(line.decode("ascii"))
        assert b"\n" not in line


def test_responses_of_the_api() -> None:
    """Their JSON is ASCII: clients such as curl print it on a terminal."""
    body = AsciiJson({"name": HOSTILE}).body
    assert json.loads(bytes(body)) == {"name": HOSTILE}
    assert_harmless(bytes(body).decode("ascii"))


@pytest.mark.parametrize("line_of", [_TerminalLine(""), _JournalLine()], ids=["terminal", "journal"])
def test_log_lines(line_of: Any) -> None:
    """A log line cannot be forged by a newline, nor change the terminal; a traceback is escaped too."""
    try:
        int(f"{HOSTILE}\n<1>2026-01-01 00:00:00,000 ERROR forged")
    except ValueError:
        record = logging.LogRecord(
            "name", logging.ERROR, "", 0, "%s", (f"{HOSTILE}\nforged",), sys.exc_info()
        )
    text = line_of.format(record)
    assert_harmless(text)
    _, *following = text.split("\n")
    assert following
    assert all(line.removeprefix("<3>").startswith("    ") for line in following)


@contextmanager
def metrics_of_a_stranger() -> Iterator[str]:
    """Serve metrics whose labels are hostile, at the address that is yielded."""
    label = HOSTILE[:-1].replace("\r", "")
    text = f'{c.BUILD.written_name}{{version="{label}"}} 1\n{c.CARRIER.name}{{interface="{label}"}} 1\n'
    text += f'{c.RULES_INFO.name}{{digest="{label}"}} 1\n{c.COSTLY_CPU.name}{{address="{label}"}} 1\n'
    text += f'{c.EVENTS_SENT.written_name}{{receiver="{label}"}} 1\n'

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("format_flag", ["--once", "--json"])
def test_status(format_flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of metrics are escaped: another program may have answered."""
    monkeypatch.setattr("sensor.cli.status.INTERVAL_S", 0.01)
    with metrics_of_a_stranger() as address:
        done = sensor("status", "--metrics", address, format_flag)
    assert done.code == 0, done.err
    assert "evil" in done.out
    assert_harmless(done.out)


def test_text_that_everybody_sees_stays() -> None:
    """Letters of any script stay as they are. Random text becomes harmless, and is escaped once at most."""
    for text in ("plain", "Größe", "名前", "שלום", "a\\x1b"):
        assert shown(text) == text
    random = Random(1)
    for _ in range(200):
        text = "".join(chr(random.randrange(random.choice((0x300, 0x110000)))) for _ in range(50))
        assert shown(shown(text)) == shown(text)
        assert shown(text).isprintable()
        assert "\n" not in shown(text)
        assert json.loads(to_json(text)) == text
        assert_harmless(shown_lines(f"{text}\n{text}"))
