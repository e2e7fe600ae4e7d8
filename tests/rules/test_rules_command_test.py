"""`sensor rules test`: whether a rule matches a payload, and if not, why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Done, sensor, write_rules

HEAD = r"GET /?id=1 UNION  SELECT 2 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a few rules, and make them the setting."""
    monkeypatch.setenv("SENSOR_RULES", str(write_rules(tmp_path)))
    return tmp_path


def tried(rule_id: int, payload: str, *options: object) -> Done:
    """Try a rule on a payload with the command."""
    return sensor("rules", "test", rule_id, payload, *options)


@pytest.mark.usefixtures("rules")
def test_a_match_gives_span_and_version() -> None:
    """The exit code is 0, and the offsets are those of group 1 if it took part."""
    done = tried(41001, r"HTTP/1.1 200 OK\r\nServer: nginx/1.18.0\r\n\r\n")
    assert (done.code, done.out) == (0, 'match: bytes 31-37 "1.18.0", version 1.18.0\n')
    done = tried(51001, HEAD.replace("  ", "%20+"), "--json")
    hit = {"rule": 51001, "class": "threat", "name": "SQL injection", "start": 11, "end": 26}
    assert done.objects == [{"hit": {**hit, "version": None, "text": "UNION%20+SELECT"}, "why": []}]


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize(
    ("rule_id", "payload", "options", "why"),
    [
        (10001, "SSH-2.0-x", ["--protocol", "udp"], "another transport; the rule looks at tcp"),
        (10002, r"\x07example\0", ["--dport", "54"], "another port; the rule looks at udp, port 53"),
        (51003, "union select", [], "not HTTP; the rule looks at HTTP head"),
        (51002, r"GET /select HTTP/1.1\r\n\r\n", [], "no body; the rule looks at HTTP body"),
        (51003, HEAD, [], 'the regex matches bytes 11-17 up to "union ", but not with "s" after it'),
        (10001, "ssh-x", [], r'the regex matches bytes 0-4 up to "^SSH-", but not with "([\d.]+)" after it'),
        (10001, "xssh-2.0", [], "the regex does not match"),
        (10001, "", [], "no payload"),
        (
            10001,
            "SSH-2.0" + 1493 * "-",
            ["--profile", "ly_probe"],
            "only payloads of 1 to 1499 bytes are matched",
        ),
        (51003, "PUT /union select", ["--profile", "ly_probe"], "not HTTP; the rule looks at HTTP head"),
    ],
)
def test_no_match_gives_the_reason(rule_id: int, payload: str, options: list[str], why: str) -> None:
    """The reason is the condition that fails, or how much of the regex matches; the exit code is 1."""
    done = tried(rule_id, payload, *options)
    assert (done.code, done.out) == (1, f"no match: {why}\n")
    assert tried(rule_id, payload, *options, "--json").objects == [{"hit": None, "why": [why]}]


@pytest.mark.usefixtures("rules")
def test_changes_with_which_the_rule_would_match() -> None:
    """The output says if the regex would match in another part, or decoded."""
    done = tried(51003, r"GET / HTTP/1.1\r\n\r\n" + "union select")
    assert done.out == 'no match: the regex does not match; with "part": "total" it matches bytes 18-30\n'
    done = tried(51003, r"GET /union%20select HTTP/1.1\r\n\r\n", "--json")
    assert done.objects[0]["why"][1:] == ['with "decode": "url" it matches bytes 5-19']


@pytest.mark.usefixtures("rules")
def test_ports_and_protocol_come_from_the_rule() -> None:
    """A rule for UDP port 53 is tried on a packet to UDP port 53, unless options say otherwise."""
    assert tried(10002, r"\x07example\x00").code == 0
    assert tried(10002, r"\x07example\x00", "--sport", 53, "--dport", 9).code == 0
    assert tried(10002, r"\x07example\x00", "--protocol", "icmp").code == 1


def test_escapes_and_files(rules: Path) -> None:
    """Each escape stands for one byte; a file's bytes are used as they are."""
    rule = {"type": "t", "name": "n", "regex": r"^a\r\n\t\x00\\\xfe\x00\xc3\xa9$"}
    (rules / "os.json").write_text(json.dumps({"os": {"rules": {"30001": rule}}}))
    assert tried(30001, r"a\r\n\t\0\\\xFE\x00é").code == 0
    (rules / "payload").write_bytes(b"a\r\n\t\0\\\xfe\0\xc3\xa9")
    assert tried(30001, f"@{rules / 'payload'}").code == 0


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (r"a\qb", r"\q is not an escape; use \r, \n, \t, \0, \\ or \xNN"),
        (r"a\x4", r"\x is not an escape"),
        ("a\\", "\\ is not an escape"),
        ("@nosuch", "nosuch cannot be read: No such file or directory"),
    ],
)
def test_an_invalid_payload(payload: str, message: str) -> None:
    """The error is one line that says what is wrong, and the exit code is 2."""
    done = tried(10001, payload)
    assert (done.code, done.out) == (2, "")
    assert message in done.err.splitlines()[-1]
