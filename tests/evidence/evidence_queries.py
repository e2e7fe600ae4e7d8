"""Random evidence and queries, and a reference implementation of queries that checks every item."""

from __future__ import annotations

import random
from ipaddress import IPv4Network, IPv6Network, ip_network
from urllib.parse import unquote_to_bytes

from evidence_samples import NOON_S, item

from sensor.evidence.search import Query, Stored
from sensor.model import RULE_CLASSES, Evidence, FiveTuple, Match, Rule

COUNT = 600
"""Items of the evidence that several tests search."""
MIDNIGHT_S = NOON_S + 43_200
RULES = [
    Rule(
        100 + number,
        RULE_CLASSES[number % 5],
        "Sample",
        f"Sample {number}",
        "x",
        version=(None, "1.0", 'quo"te', "\\xff", "ünï")[number % 5],
        vendor="Vendor" if number % 3 else None,
        os="OS" if number % 2 else None,
    )
    for number in range(12)
]
V4 = [bytes([10, 0, third, last]) for third in (0, 1) for last in (1, 2, 3)]
V6 = [bytes.fromhex("20010db8000000000000000000000001"), bytes.fromhex("0a000001") + bytes(12)]
PORTS = [0, 53, 80, 443, 50_000, 65_535]
TEXTS = [
    b"plain text",
    b"GET /Index",
    b"\x00\xff\x80binary",
    b"union SELECT",
    b"union%20%53elect",
    b"a=union+select&%zz",
]


def random_items(count: int, seed: int) -> list[Evidence]:
    """Return evidence around midnight with few addresses, ports and rules; times repeat and step back."""
    seeded = random.Random(seed)
    items = []
    time_us = MIDNIGHT_S * 1_000_000 - count * 250_000
    for number in range(count):
        time_us += seeded.choice([0, 0, 1, 1_000_000, 2_000_000, -300_000])
        addresses = V6 if seeded.random() < 0.2 else V4
        text = seeded.choice(TEXTS)
        frame = item(number).frame + text
        chosen = sorted(seeded.sample(range(12), seeded.choice([0, 1, 1, 1, 2, 3])))
        items.append(
            Evidence(
                frame,
                time_us * 1000 + seeded.randrange(1000),
                len(frame) + seeded.choice([0, 0, 1000]),
                1,
                seeded.choice([1, 2]),
                FiveTuple(
                    seeded.choice([6, 17, 1]),
                    seeded.choice(addresses),
                    seeded.choice(PORTS),
                    seeded.choice(addresses),
                    seeded.choice(PORTS),
                ),
                seeded.choice([(), (), (0x2064,), (100, 0xE00A)]),
                len(frame) - len(text),
                len(frame),
                tuple(Match(RULES[rule], 1, 3) for rule in chosen),
            )
        )
    return items


def random_query(seeded: random.Random, times_us: list[int]) -> Query:
    """Return a query with some random conditions."""

    def maybe(value: object) -> object:
        return value if seeded.random() < 0.35 else None

    since_us, until_us = sorted((seeded.choice(times_us), seeded.choice(times_us)))
    networks = ["10.0.0.1", "10.0.1.0/24", "10.0.0.0/8", "2001:db8::/32", "a00:1::/64", "192.0.2.1", "::/0"]
    return Query(
        since_us=maybe(since_us),
        until_us=maybe(until_us),
        network=maybe(ip_network(seeded.choice(networks))),
        port=maybe(seeded.choice([*PORTS, 99])),
        protocol=maybe(seeded.choice([6, 17, 1, 47])),
        rule_class=maybe(seeded.choice(RULE_CLASSES)),
        rule_id=maybe(seeded.choice([100, 103, 111, 999])),
        text=maybe(seeded.choice([b"INDEX", b"\xff\x80", b"union select", b"nowhere"])),
    )


def holds(query: Query, one: Evidence) -> bool:
    """Return True if an item meets a query."""
    five_tuple = one.five_tuple
    return (
        (query.since_us is None or one.timestamp_ns // 1000 >= query.since_us)
        and (query.until_us is None or one.timestamp_ns // 1000 < query.until_us)
        and (
            query.network is None or any(_in(query.network, side) for side in (five_tuple[1], five_tuple[3]))
        )
        and (query.port is None or query.port in (five_tuple.sport, five_tuple.dport))
        and (query.protocol is None or query.protocol == five_tuple.protocol)
        and (query.text is None or _has(one.payload, query.text))
        and (
            (query.rule_class is None and query.rule_id is None)
            or any(
                query.rule_class in (None, match.rule.rule_class)
                and query.rule_id in (None, match.rule.rule_id)
                for match in one.matches
            )
        )
    )


def _has(payload: bytes, text: bytes) -> bool:
    decoded = unquote_to_bytes(payload.replace(b"+", b" "))
    return any(text.lower() in one.lower() for one in (payload, decoded))


def _in(network: IPv4Network | IPv6Network, address: bytes) -> bool:
    width = len(network.network_address.packed)
    bits = 8 * width - network.prefixlen
    ends = int.from_bytes(network.network_address.packed), int.from_bytes(address)
    return len(address) == width and ends[0] >> bits == ends[1] >> bits


def same(stored: Stored, one: Evidence) -> bool:
    """Return True if the index has all properties of an item."""
    return (
        stored.time_us == one.timestamp_ns // 1000
        and (stored.caplen, stored.wirelen, stored.linktype) == (one.caplen, one.wirelen, one.linktype)
        and (stored.interface, stored.five_tuple, stored.vlan)
        == (f"eth{one.interface}", one.five_tuple, one.vlan)
        and (stored.payload_start, stored.payload_end) == (one.payload_start, one.payload_end)
        and stored.rules == tuple(match.rule for match in one.matches)
    )
