"""Lines of text (``lines.c``): time, endpoints and words of an item are those that Python gives it."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np

from sensor.evidence.block import ITEM
from sensor.native.lines import format_lines, packed_words
from sensor.protocols import protocol_name
from sensor.text import INCOMPLETE, endpoint, shown, utc_text
from tests.fuzz.rounds import Round

BATCHES = 300
_LAST_NS = (1 << 63) - 1
_TEXTS = ("", "a", "threat 1 Name", "ünï", "\u202e", "x" * 700, '"quoted"', "\udcff")
_PARTS = (bytes(2), bytes(2), b"\0\1", b"\x20\1", b"\xff\xff", b"\x0a\xbc")


def fuzz(one: Round) -> None:
    """Format random items."""
    rng = one.rng
    for _ in range(BATCHES):
        items = np.zeros(rng.randrange(12), ITEM)
        words, expected = [], []
        for item in items:
            item["time_ns"] = rng.choice(
                (0, -1, _LAST_NS, -_LAST_NS, rng.randrange(2**62), 1_700_000_000 * 10**9)
            )
            item["protocol"], item["ip_version"] = rng.randrange(256), rng.choice((0, 4, 6))
            item["sport"], item["dport"] = rng.choice((0, 1, 65_535)), rng.choice((0, 80))
            item["incomplete"] = rng.random() < 0.2
            for side in ("source", "destination"):
                address = b"".join(rng.choices(_PARTS, k=8))
                item[side] = list(address if item["ip_version"] == 6 else address[:4] + bytes(12))
            found = [(rng.choice(_TEXTS), rng.choice(_TEXTS[:-1])) for _ in range(rng.randrange(4))]
            words.append(b"".join(packed_words(*(shown(one).encode() for one in each)) for each in found))
            expected += [_line(item, *each) for each in found]
        text = format_lines(items, words, len(expected))
        one.comparisons += len(expected) + 1
        if text != "".join(expected):
            one.fault(f"{text!r}\ninstead of\n{''.join(expected)!r}")


def _line(item: np.void, label: str, text: str) -> str:
    size = 16 if item["ip_version"] == 6 else 4
    sides = (
        endpoint(str(ip_address(item[side][:size].tobytes())), int(item[port]))
        for side, port in (("source", "sport"), ("destination", "dport"))
    )
    mark = f"  [{INCOMPLETE}]" if item["incomplete"] else ""
    both = " > ".join(sides)
    moment = utc_text(int(item["time_ns"]) // 1000, " ")
    return f"{moment}  {shown(label)}  {protocol_name(int(item['protocol']))} {both}  {shown(text)}{mark}\n"
