"""Remembers what was worked out for a payload and its rules. Runs in ``sensor read`` and in the event sender.

Floods, scans and worms repeat their payloads: in an attack storm most matches are found in bytes that were
seen a moment ago. Whatever depends on the payload and its rules alone is then looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.pcap import RECORD_HEADER_BYTES
from sensor.model import Rule
from sensor.rules.engine.http_payload import RFC9110, HttpReading

MOST_BYTES = 1 << 24
"""Memory, approximately, after which everything is forgotten."""
LONGEST = 4096
"""Bytes of the longest payload that is remembered."""
_ENTRY_BYTES = 256
"""Memory that a payload, or a match in it, takes besides its bytes, approximately."""

T = TypeVar("T")


class PayloadMemo(Generic[T]):
    """Calls a function for the payload and rules of each item, but only once for equal ones."""

    def __init__(self, function: Callable[[Sequence[Rule], bytes, HttpReading], T]) -> None:
        """Remember what ``function`` returns for rules, the payload they match, and a definition of HTTP."""
        self._function = function
        self._known: dict[tuple[bytes, bytes], T] = {}
        self._room = MOST_BYTES
        self._rule_set: Sequence[Rule] = ()
        self._http = RFC9110

    def of(self, block: EvidenceBlock, http: HttpReading) -> list[T]:
        """Return what the function returns for each item; ``http`` is what the rules were matched with."""
        if self._rule_set is not block.rule_set or self._http != http:
            self._forget()
            self._rule_set, self._http = block.rule_set, http
        items = block.items
        data, rules = block.records.tobytes(), block.rules.astype("=u4").tobytes()
        frame = items["record"].astype(np.int64) + RECORD_HEADER_BYTES
        start, end = (
            (frame + np.minimum(items[name], items["caplen"])).tolist()
            for name in ("payload_start", "payload_end")
        )
        first = 4 * items["first_match"].astype(np.int64)
        ranges = zip(start, end, first.tolist(), (first + 4 * items["matches"]).tolist(), strict=True)
        known, found = self._known, []
        for start_at, end_at, first_at, last_at in ranges:
            key = data[start_at:end_at], rules[first_at:last_at]
            value = known.get(key)
            found.append(self._add(key) if value is None else value)
        return found

    def _add(self, key: tuple[bytes, bytes]) -> T:
        payload, numbers = key
        rules = [self._rule_set[number] for number in memoryview(numbers).cast("I")]
        value = self._function(rules, payload, self._http)
        if len(payload) <= LONGEST:
            self._room -= (_ENTRY_BYTES + len(payload)) * (1 + len(rules))
            if self._room < 0:
                self._forget()
            self._known[key] = value
        return value

    def _forget(self) -> None:
        self._known.clear()
        self._room = MOST_BYTES
