"""Evidence as objects, with the places of its matches. Runs in ``sensor read`` and in the event sender."""

from __future__ import annotations

from collections.abc import Iterator

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.pcap import RECORD_HEADER_BYTES
from sensor.model import Evidence
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.locate import locate_each


def explained(block: EvidenceBlock, http: HttpReading) -> Iterator[Evidence]:
    """Yield each item of a block with its matches; ``http`` is what the rules were matched with."""
    items = block.items
    names = ("time_ns", "wirelen", "linktype", "interface", "payload_start", "payload_end", "incomplete")
    columns = (items[name].tolist() for name in names)
    records = block.records.tobytes()
    offsets = block.record_offsets().tolist()
    first = items["first_match"].tolist()
    rules = [block.rule_set[number] for number in block.rules.tolist()]
    places = zip(offsets, offsets[1:], first, [*first[1:], len(rules)], strict=False)
    rows = zip(*columns, block.five_tuples(), block.vlans(), places, strict=True)
    for time_ns, wirelen, linktype, interface, start, end, is_cut, five_tuple, vlan, place in rows:
        frame = records[place[0] + RECORD_HEADER_BYTES : place[1]]
        matches = tuple(locate_each(rules[place[2] : place[3]], frame[start:end], http))
        packet = time_ns, wirelen, linktype, interface, five_tuple, vlan, start, end
        yield Evidence(frame, *packet, matches, incomplete=bool(is_cut))
