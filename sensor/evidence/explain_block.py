"""Evidence as objects, with the places of its matches. Runs in ``sensor read`` and in the event sender."""

from __future__ import annotations

from collections.abc import Iterator

from sensor.evidence.block import EvidenceBlock
from sensor.model import Evidence
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.locate import locate_each


def explained(block: EvidenceBlock, http: HttpReading) -> Iterator[Evidence]:
    """Yield each item of a block with its matches; ``http`` is what the rules were matched with."""
    items = block.items
    names = ("time_ns", "wirelen", "linktype", "interface", "payload_start", "payload_end")
    columns = (items[name].tolist() for name in names)
    rows = zip(*columns, block.five_tuples(), block.vlans(), strict=True)
    for position, (time_ns, wirelen, linktype, interface, start, end, five_tuple, vlan) in enumerate(rows):
        frame = bytes(block.frame(position))
        matches = tuple(locate_each(block.rules_of(position), frame[start:end], http))
        yield Evidence(frame, time_ns, wirelen, linktype, interface, five_tuple, vlan, start, end, matches)
