"""Times, addresses, interfaces, counts and bytes as text. Runs in every process."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from socket import if_indextoname

_PRINTABLE = bytes(byte if 0x20 <= byte <= 0x7E else ord(".") for byte in range(256))

INCOMPLETE = "incomplete: the search was cut for its cost, so more rules may match"
"""The remark on an item whose search was cut."""
UNKNOWN_POSITION = "position unknown"
"""Where a match was not located."""


def printable(data: bytes) -> str:
    """Return text of the same length, with a dot for every byte outside 0x20-0x7e."""
    return data.translate(_PRINTABLE).decode("ascii")


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 file``, ``2 files``, ``2 matches``, ``2 prefixes``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith(('ch', 'x')) else 's'}"


def interface_name(index: int) -> str:
    """Return the name of an interface, or its index as text if the interface no longer exists."""
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
