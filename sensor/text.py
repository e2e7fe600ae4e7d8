"""Times, addresses, interfaces, counts and bytes as text. Runs in every process.

Rules, capture files and packets contain text of strangers. `shown` makes it safe to print for terminals, logs
and metrics, and `to_json` does so for JSON, events among it.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import lru_cache
from socket import if_indextoname, if_nameindex
from typing import Any

_PRINTABLE = bytes(byte if 0x20 <= byte <= 0x7E else ord(".") for byte in range(256))

CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that break lines or change the direction of text."""
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters that Python calls printable, but that show nothing (UAX #44: Default_Ignorable_Code_Point)."""

_names: dict[int, str] = {}
"""Names of interfaces that were remembered, by index."""

INCOMPLETE = "incomplete: the search was cut for its cost, so more rules may match"
"""The remark on an item whose search was cut."""
UNKNOWN_POSITION = "position unknown"
"""The place of a match that was not located."""


def printable(data: bytes) -> str:
    """Return text of the same length, with a dot for every byte outside 0x20-0x7e."""
    return printable_bytes(data).decode("ascii")


def printable_bytes(data: bytes) -> bytes:
    """Return ASCII of the same length, with a dot for every byte outside 0x20-0x7e."""
    return data.translate(_PRINTABLE)


def shown(text: str) -> str:
    r"""Return text with an escape such as ``\x1b`` or ``\u202e`` for each character that shows nothing.

    These are control and formatting characters, those that change the direction of text among them, and all
    others that are neither printable nor a space. A terminal executes some of them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(one) if not one.isprintable() or _INVISIBLE.match(one) else one for one in text)


def shown_lines(text: str) -> str:
    """Return lines, escaped; all but the first are indented, so that none looks like one of its own."""
    return "\n    ".join(map(shown, text.split("\n")))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def to_json(value: Any, *, compact: bool = False, indent: int | None = None) -> str:
    r"""Return JSON in printable ASCII; all other characters are escapes such as ``\u001b``."""
    text = json.dumps(value, separators=(",", ":") if compact else None, indent=indent)
    return text.replace("\x7f", "\\u007f")  # the only one that the encoder leaves as it is


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 file``, ``2 files``, ``2 matches``, ``2 prefixes``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith(('ch', 'x')) else 's'}"


def remember_interface_names() -> None:
    """Let `interface_name` return the names that interfaces have now, also once they are gone."""
    _names.update(if_nameindex())


def interface_name(index: int) -> str:
    """Return the name of an interface, or its index as text if the interface no longer exists."""
    if index in _names:
        return _names[index]
    try:
        return if_indextoname(index)
    except OSError:
        return str(index)


def endpoint(address: str, port: int) -> str:
    """Return an address with its port, or the address alone if the port is 0."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def utc_text(time_us: int, separator: str = "T") -> str:
    """Return a time in microseconds since the epoch as ``2026-01-31T23:59:59.123456``, in UTC.

    ``separator`` stands between date and time. The text has no time zone; formats that need one append it.
    """
    seconds, microseconds = divmod(time_us, 1_000_000)
    return f"{_second_text(seconds, separator)}.{microseconds:06}"


@lru_cache(maxsize=1024)  # many packets share a second
def _second_text(time_s: int, separator: str) -> str:
    moment = datetime.fromtimestamp(time_s, UTC)
    return f"{moment:%Y-%m-%d}{separator}{moment:%H:%M:%S}"
