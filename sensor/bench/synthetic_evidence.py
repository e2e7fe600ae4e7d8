"""A day of synthetic evidence, as skewed as real matches and the same every time.

Runs in ``sensor bench store``.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.model import RULE_CLASSES, Evidence, FiveTuple, LinkType, Match, Rule
from sensor.protocols import TCP

DAY_S = 1_767_571_200
"""2026-01-05 00:00:00 UTC."""
RULES = 400
RARE_RULE = 399
"""The rule that matches one packet in a million; for all others, the lower the number, the more matches."""
CAPLEN = 500
SERVER_PORTS = (80, 443, 22, 25, 53, 3306, 6379, 8080)
CLIENT_NETWORK, SERVER_NETWORK = bytes([10]), bytes([198, 18])

_NS = 1_000_000_000
_HEADERS = struct.Struct(">6s6sH BBHHHBBH4s4s HHIIBBHHH")
_HEADER_BYTES = _HEADERS.size


def rules() -> list[Rule]:
    """Return the rules that match."""
    return [
        Rule(number, RULE_CLASSES[number % len(RULE_CLASSES)], "Sample", f"Sample {number}", "sample")
        for number in range(RULES)
    ]


def time_ns(number: int, count: int) -> int:
    """Return the time of item ``number`` of ``count``; items are spread evenly over the day."""
    return DAY_S * _NS + number * (86_400 * _NS // count)


def blocks(count: int, block_items: int) -> Iterator[EvidenceBlock]:
    """Yield ``count`` evidence items in order of time, in blocks of this many."""
    rule_set = rules()
    made = items(count, rule_set)
    while some := list(islice(made, block_items)):
        yield block_of_objects(some, rule_set)


def items(count: int, known: Sequence[Rule], seed: int = 1) -> Iterator[Evidence]:
    """Yield ``count`` evidence items in order of time, which match some of the known `rules`."""
    seeded = random.Random(seed)  # noqa: S311 - synthetic, not secret
    weights = list(accumulate(1 / number for number in range(1, RULES)))
    text = b"a sample "
    payload = text + seeded.randbytes(CAPLEN - _HEADER_BYTES - len(text))
    for number in range(count):
        client = CLIENT_NETWORK + seeded.randbytes(3)
        server = SERVER_NETWORK + bytes([int(seeded.paretovariate(1)) & 0xFF, number & 0xFF])
        sport, dport = (
            seeded.randrange(1024, 65536),
            seeded.choices(SERVER_PORTS, (40, 40, 5, 5, 4, 3, 2, 1))[0],
        )
        [rule] = seeded.choices(known[:-1], cum_weights=weights) if number % 1_000_000 else known[-1:]
        frame = _HEADERS.pack(
            b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2", 0x0800,
            0x45, 0, CAPLEN - 14, 0, 0x4000, 64, TCP, 0, client, server,
            sport, dport, number & 0xFFFFFFFF, 0, 0x50, 0x18, 0xFFFF, 0, 0,
        ) + payload  # fmt: skip
        yield Evidence(
            frame,
            time_ns(number, count),
            CAPLEN,
            LinkType.ETHERNET,
            1,
            FiveTuple(TCP, client, sport, server, dport),
            (),
            _HEADER_BYTES,
            CAPLEN,
            (Match(rule, 2, 8),),
        )
