"""What the commands print: matches as JSON objects or lines of text, and counters."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from socket import if_indextoname
from typing import Any, TextIO

from sensor.counters import Counters
from sensor.model import Evidence, Match

PROTOCOL_NAMES = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
_PRINTABLE = bytes(byte if 0x20 <= byte <= 0x7E else ord(".") for byte in range(256))


def printable(data: bytes) -> str:
    """Text of the same length, every byte outside 0x20-0x7e as a dot."""
    return data.translate(_PRINTABLE).decode("ascii")


def protocol_name(protocol: int) -> str:
    """``TCP``, ``UDP``, ..., or the IANA number of a protocol without a name here."""
    return PROTOCOL_NAMES.get(protocol, str(protocol))


def interface_name(index: int) -> str:
    """Return the name of a live interface; the index as text where the interface went away since."""
    try:
        return if_indextoname(index)
    except OSError:
        return str(index)


def log_to_stderr() -> None:
    """Let this process log a line for each thing that happens; over the status line, where one is drawn."""
    over_status = "\r\x1b[K" if sys.stderr.isatty() else ""
    line = f"{over_status}%(asctime)s %(levelname)s %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JournalLine() if _is_journal(sys.stderr) else logging.Formatter(line))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def print_error(text: str) -> None:
    """Print the line that a command ends with."""
    print(f"{'<3>' if _is_journal(sys.stderr) else ''}sensor: {text}", file=sys.stderr)  # noqa: T201


class _JournalLine(logging.Formatter):
    """A line with syslog's priority in front (sd-daemon(3)), without the time: the journal knows it."""

    def format(self, record: logging.LogRecord) -> str:
        """From 3, error, to 6, info."""
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return f"<{priority}>{super().format(record)}"


def _is_journal(stream: TextIO) -> bool:
    """Whether lines go to systemd's journal: it says so in ``JOURNAL_STREAM`` (systemd.exec(5))."""
    named = os.environ.get("JOURNAL_STREAM")
    if named is None:
        return False
    status = os.fstat(stream.fileno())
    return named == f"{status.st_dev}:{status.st_ino}"


def match_objects(piece: Evidence, interface: str) -> Iterator[dict[str, Any]]:
    """One object a match, ready for JSON; one without a rule for a frame kept for its flow alone."""
    for match in piece.matches or (None,):
        yield {
            "time_us": piece.timestamp_ns // 1000,
            **_match_fields(match),
            "protocol": protocol_name(piece.five_tuple.protocol),
            "sip": piece.five_tuple.source_text,
            "sport": piece.five_tuple.sport,
            "dip": piece.five_tuple.destination_text,
            "dport": piece.five_tuple.dport,
            "vlan": [tci & 0x0FFF for tci in piece.vlan],
            "interface": interface,
            "start": match.start if match else None,
            "end": match.end if match else None,
            "text": printable(piece.payload[match.start : match.end]) if match else None,
        }


def _match_fields(match: Match | None) -> dict[str, Any]:
    if match is None:
        return dict.fromkeys(("class", "rule", "type", "name", "version", "vendor", "os"))
    rule = match.rule
    return {
        "class": rule.rule_class,
        "rule": rule.rule_id,
        "type": rule.type,
        "name": rule.name,
        "version": match.version,
        "vendor": rule.vendor,
        "os": rule.os,
    }


def match_line(found: dict[str, Any]) -> str:
    """One object of `match_objects` as a line for people."""
    moment = datetime.fromtimestamp(found["time_us"] // 1_000_000, UTC)
    label = f"{found['class']} {found['rule']} {found['name']}" if found["rule"] else "flow"
    if found["version"]:
        label += f" {found['version']}"
    return (
        f"{moment:%Y-%m-%d %H:%M:%S}.{found['time_us'] % 1_000_000:06d}  {label:<40}  {found['protocol']} "
        f"{endpoint(found['sip'], found['sport'])} > {endpoint(found['dip'], found['dport'])}  "
        f"{found['text'] or ''}"
    )


def endpoint(address: str, port: int) -> str:
    """Address and port as text; port 0 is none."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def counters_line(counters: Counters) -> str:
    """All counters as one JSON object."""
    return json.dumps(counters.as_dict())
