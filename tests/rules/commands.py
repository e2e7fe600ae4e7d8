"""Run ``sensor`` as a user would, but inside the test's own process, so that compiled rules are reused."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from sensor.cli import main


class Done(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        """The lines of standard output, parsed as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


RULES: dict[str, dict[str, dict[str, Any]]] = {
    "service": {
        "10001": {"type": "Remote access", "name": "SSH", "protocol": "tcp", "regex": r"^SSH-([\d.]+)"},
        "10002": {"type": "Names", "name": "DNS", "protocol": "udp", "port": 53, "regex": r"\x07example\x00"},
    },
    "midware": {
        "41001": {
            "type": "Web server",
            "name": "nginx",
            "is_http": 1,
            "part": "head",
            "regex": r"\r\nServer: nginx(?:/([\d.]+))?",
            "os": "Linux",
            "desc": "nginx documentation: server_tokens",
            "context": True,
        },
        "41002": {"type": "Web server", "name": "Old", "regex": "old", "deleted": 1},
    },
    "threat": {
        "51001": {
            "type": "Web attack",
            "name": "SQL injection",
            "is_http": 1,
            "part": "head",
            "decode": "url",
            "regex": r"\bunion\s+select\b",
        },
        "51002": {
            "type": "Web attack",
            "name": "SQL in a form",
            "is_http": 1,
            "part": "body",
            "regex": "select",
        },
        "51003": {
            "type": "Web attack",
            "name": "Plain",
            "is_http": 1,
            "part": "head",
            "regex": "union select",
        },
    },
}
"""A few rules of each kind."""


def write_rules(directory: Path) -> Path:
    """Write `RULES` as rule files, and return the directory."""
    for name, rules in RULES.items():
        (directory / f"{name}.json").write_text(json.dumps({name: {"rules": rules}}))
    return directory


def sensor(*arguments: object) -> Done:
    """Run a command until it ends."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["sensor", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())
