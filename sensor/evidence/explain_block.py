"""Evidence as objects, with the places of its matches. Runs in ``sensor read`` and in the event sender."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.payload_memo import PayloadMemo
from sensor.evidence.pcap import RECORD_HEADER_BYTES
from sensor.model import Evidence, Match, Role, Rule
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.locate import locate_each


def _located(rules: Sequence[Rule], payload: bytes, http: HttpReading) -> tuple[Match, ...]:
    return tuple(locate_each(rules, payload, http))


_matches = PayloadMemo(_located)
_ROLES = tuple(Role)


def explained(block: EvidenceBlock, http: HttpReading) -> Iterator[Evidence]:
    """Return each item of a block with its matches; ``http`` is what the rules were matched with."""
    items = block.items
    names = ("time_ns", "wirelen", "linktype", "interface")
    columns = (items[name].tolist() for name in names)
    payload = (items[name].tolist() for name in ("payload_start", "payload_end"))
    incomplete = items["incomplete"].astype(np.bool_).tolist()
    records = block.records.tobytes()
    offsets = block.record_offsets().tolist()
    frames = [records[at + RECORD_HEADER_BYTES : end] for at, end in pairwise(offsets)]
    matches = _matches.of(block, http)
    roles = map(_ROLES.__getitem__, items["role"].tolist())
    return map(
        Evidence,
        frames,
        *columns,
        block.five_tuples(),
        block.vlans(),
        *payload,
        matches,
        incomplete,
        roles,
        items["conversation"].tolist(),
    )
