"""Payloads on the command line: text with escapes, or the bytes of a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.?)", re.DOTALL)
_NAMED = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def payload(text: str) -> bytes:
    r"""Return the bytes of a text with the escapes ``\r \n \t \0 \\ \xNN``, or of the file for ``@FILE``.

    Raises:
        click.BadParameter: another escape is used, or the file cannot be read.
    """
    if not text.startswith("@"):
        return _ESCAPE.sub(_unescape, os.fsencode(text))
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{text[1:]} cannot be read: {error.strerror}") from error


def _unescape(escape: re.Match[bytes]) -> bytes:
    what = escape[1]
    if len(what) == 3:
        return bytes.fromhex(what[1:].decode())
    if what not in _NAMED:
        shown = escape[0].decode(errors="replace")
        raise click.BadParameter(rf"{shown} is not an escape; use \r, \n, \t, \0, \\ or \xNN")
    return _NAMED[what]
