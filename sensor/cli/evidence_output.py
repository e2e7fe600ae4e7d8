"""Output of ``sensor evidence``: an item as a line, or with its headers and bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from textwrap import wrap
from typing import Any

from sensor.dissect import HeaderLayer, dissect
from sensor.evidence.export import label
from sensor.evidence.origins import CaptureOrigin
from sensor.evidence.search import Stored, StoredMatch
from sensor.model import Role
from sensor.protocols import protocol_name
from sensor.text import INCOMPLETE, UNKNOWN_POSITION, endpoint, printable, shown, utc_text

_WIDTH = 16
_LINE = 100


def stored_line(stored: Stored, matches: Iterable[StoredMatch]) -> str:
    """Return an item and its matches as one line of text."""
    labels = "; ".join(map(label, matches)) or ("flow" if stored.role == Role.HIT else _role(stored))
    line = f"{utc_text(stored.time_us, ' ')}  {labels:<40}  {_ends(stored)}  {stored.caplen} bytes"
    if stored.conversation:
        line += f"  conversation {stored.conversation}"
    return line + f"  [{INCOMPLETE}]" * stored.incomplete


def stored_lines(stored: Stored, frame: bytes, origin: CaptureOrigin | None = None) -> Iterator[str]:
    """Yield all that is known of an item, and a hex dump that marks the bytes of each match."""
    yield f"{utc_text(stored.time_us, ' ')} UTC  ({stored.time_us})"
    yield f"    {_ends(stored)}"
    if stored.vlan:
        yield f"    VLAN {', '.join(map(str, stored.vlan_ids))}"
    cut = "" if stored.caplen == stored.wirelen else f" of {stored.wirelen} on the wire"
    number = "interface " if stored.interface.isdecimal() else ""
    interface = f", on {number}{stored.interface}" if stored.interface else ""
    payload = f"payload: bytes {stored.payload_start} to {stored.payload_end}"
    yield f"    {stored.caplen} bytes{cut}{interface}; {payload}"
    yield f"    {stored.path}, byte {stored.offset}; key {stored.key}"
    if origin:
        yield f"    read from {origin.path} on {origin.time}, SHA-256 {origin.content.sha256}"
    if stored.conversation:
        yield f"    {_role(stored)}, in conversation {stored.conversation}"
    if stored.incomplete:
        yield f"    {INCOMPLETE}"
    marked: set[int] = set()
    for match in stored.matches(frame):
        if match.start is None or match.end is None:
            yield f"    match: {label(match)}, {UNKNOWN_POSITION}"
            continue
        start, end = stored.payload_start + match.start, stored.payload_start + match.end
        marked.update(range(start, end))
        yield f"    match: {label(match)}, bytes {start} to {end}: {printable(frame[start:end])}"
    yield ""
    for layer in dissect(frame, stored.linktype):
        yield from _layer_lines(layer)
    yield ""
    yield from _dump(frame, marked)


def origin_object(origin: CaptureOrigin) -> dict[str, Any]:
    """Return the capture file that an item came from, ready for JSON."""
    content = origin.content
    return {"path": origin.path, "read": origin.time, "size": content.size, "sha256": content.sha256}


def layer_objects(stored: Stored, frame: bytes) -> list[dict[str, Any]]:
    """Return the decoded headers of an item, ready for JSON."""
    return [
        {
            "name": layer.name,
            "start": layer.start,
            "end": layer.end,
            "fields": [one._asdict() for one in layer.fields],
        }
        for layer in dissect(frame, stored.linktype)
    ]


def _layer_lines(layer: HeaderLayer) -> Iterator[str]:
    fields = ", ".join(f"{one.name} {shown(one.value)}" for one in layer.fields)
    yield from wrap(
        fields or f"{layer.end - layer.start} bytes",
        _LINE,
        initial_indent=f"    {layer.name:<10} ",
        subsequent_indent=" " * 15,
    )


def _dump(frame: bytes, marked: AbstractSet[int]) -> Iterator[str]:
    for start in range(0, len(frame), _WIDTH):
        line = frame[start : start + _WIDTH]
        yield f"{start:04x}  {line.hex(' '):<{3 * _WIDTH - 1}}  {printable(line)}"
        marks = [start + place in marked for place in range(len(line))]
        if any(marks):
            under_hex = " ".join("^^" if mark else "  " for mark in marks)
            under_text = "".join("^" if mark else " " for mark in marks)
            yield f"      {under_hex:<{3 * _WIDTH - 1}}  {under_text}".rstrip()


def _role(stored: Stored) -> str:
    """Return the role of an item in words."""
    return {Role.HIT: "hit", Role.BEFORE: "before a match", Role.AFTER: "after a match"}[stored.role]


def _ends(stored: Stored) -> str:
    five_tuple = stored.five_tuple
    source = endpoint(five_tuple.source_text, five_tuple.sport)
    destination = endpoint(five_tuple.destination_text, five_tuple.dport)
    return f"{protocol_name(five_tuple.protocol)} {source} > {destination}"
