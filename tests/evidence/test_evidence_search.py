"""Searching evidence: every query returns the same as a check of every item."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from evidence_queries import COUNT, MIDNIGHT_S, holds, random_query, same
from evidence_samples import NOON_S, NS, item, writing

from sensor.errors import EvidenceError
from sensor.evidence import index_schema, search, selection
from sensor.evidence.block import block_of_objects
from sensor.evidence.search import EvidenceSearch, Page, Query, Stored, StoredMatch
from sensor.model import Evidence, FiveTuple, Match, Rule
from sensor.rules.engine.http_payload import HttpReading


@pytest.fixture(scope="module", autouse=True)
def small_steps() -> Iterator[None]:
    """Use small segments, stretches and fetches, so that a small database is searched like a large one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_schema, "SEGMENT_ITEMS", 8)
        patch.setattr(selection, "FIRST_ITEMS", 16)
        patch.setattr(selection, "MOST_ITEMS", 64)
        patch.setattr(selection, "FETCHED_FIRST", 3)
        patch.setattr(selection, "FETCHED_MOST", 7)
        yield


def pages(index: EvidenceSearch, query: Query, limit: int) -> Iterator[Page]:
    """Yield all pages of a search."""
    cursor = None
    while True:
        page = index.search(query, limit, cursor)
        yield page
        cursor = page.cursor
        if cursor is None:
            return


def found(index: EvidenceSearch, query: Query, limit: int = 17) -> list[Stored]:
    """Return everything a search finds, page by page."""
    return [stored for page in pages(index, query, limit) for stored in page.items]


def assert_same(stored: list[Stored], items: list[Evidence]) -> None:
    """Assert that the stored items are the given ones, each once, the newest first."""
    times_us = [one.time_us for one in stored]
    assert times_us == sorted((one.timestamp_ns // 1000 for one in items), reverse=True)
    left = list(items)
    for one in stored:
        [number] = [
            number for number, candidate in enumerate(left) if same(one, candidate) and _is_at(one, candidate)
        ][:1]
        del left[number]


def _is_at(stored: Stored, one: Evidence) -> bool:
    """Return True if the file has the frame of the item at this place."""
    return EvidenceSearch(stored.path.parents[1]).record(stored).frame == one.frame


@pytest.mark.parametrize("seed", range(16))
def test_random_queries(kept: tuple[Path, list[Evidence]], seed: int) -> None:
    """For any combination of conditions, search and iterate return exactly the right items, in order."""
    directory, items = kept
    index = EvidenceSearch(directory)
    times_us = [one.timestamp_ns // 1000 for one in items]
    for query in [random_query(random.Random(1000 * seed + number), times_us) for number in range(4)]:
        expected = [one for one in items if holds(query, one)]
        stored = found(index, query)
        assert_same(stored, expected)
        assert list(index.iterate(query)) == sorted(
            stored,
            key=lambda one: (one.time_us, int(one.key.split("-")[2]) & index_schema.OFFSET_MASK, one.devid),
        )
        only = found(index, replace(query, devid=12))
        assert only == [one for one in stored if one.devid == 12]


def test_lookup_returns_all_packets_of_a_microsecond(kept: tuple[Path, list[Evidence]]) -> None:
    """A lookup returns all packets of a microsecond, for one device or all, and no others."""
    directory, items = kept
    index = EvidenceSearch(directory)
    counts = Counter(one.timestamp_ns // 1000 for one in items)
    assert max(counts.values()) > 3
    for time_us, count in counts.items():
        stored = index.lookup(time_us)
        assert len(stored) == count
        assert stored == index.lookup(time_us, 3) + index.lookup(time_us, 12)
        assert [(one.path, one.offset) for one in stored] == sorted(
            (one.path, one.offset) for one in stored
        ) or (len({one.devid for one in stored}) > 1)
    assert index.lookup(min(counts) - 1) == index.lookup(0) == index.lookup(NOON_S, 77) == []


def test_keys_and_records(kept: tuple[Path, list[Evidence]]) -> None:
    """A key returns its item; an invalid key returns nothing."""
    index = EvidenceSearch(kept[0])
    for stored in index.iterate(Query()):
        assert index.get(stored.key) == stored
        record = index.record(stored)
        assert (record.time_us, record.caplen, record.wirelen) == (
            stored.time_us,
            stored.caplen,
            stored.wirelen,
        )
    day = "20230618"
    for key in (
        "",
        "3",
        f"3-{day}-7",
        f"3-{day}-{1 << 63}",
        f"3-{day}-{1 << 62}",
        "3-20239999-1",
        "../../etc-1-1",
    ):
        assert index.get(key) is None


def test_flow_is_both_directions_with_its_vlan(tmp_path: Path) -> None:
    """A flow has both directions in one VLAN, regardless of VLAN priorities, in the order of time."""
    there = FiveTuple(6, b"\x0a\0\0\1", 1234, b"\x0a\0\0\2", 80)
    back = FiveTuple(6, b"\x0a\0\0\2", 80, b"\x0a\0\0\1", 1234)
    others = [there._replace(sport=1235), there._replace(protocol=17), there._replace(source=b"\x0a\0\0\3")]
    kinds = [
        (there, (7,)),
        (back, (0x2007,)),
        (there, (8,)),
        (there, ()),
        *((other, (7,)) for other in others),
    ]
    with writing(tmp_path) as writer:
        for number, (five_tuple, vlan) in enumerate(kinds * 2):
            one = item(number, NOON_S * NS - 3_000_000_000 + number * NS)
            writer.write(block_of_objects([one._replace(five_tuple=five_tuple, vlan=vlan)]))
    index = EvidenceSearch(tmp_path)
    first = index.lookup((NOON_S - 3) * 1_000_000)[0]
    flow = list(index.flow(first))
    assert [(one.five_tuple, one.time_us // 1_000_000 - NOON_S + 3) for one in flow] == [
        (there, 0),
        (back, 1),
        (there, 7),
        (back, 8),
    ]


def test_cursor_is_stable_while_evidence_arrives(tmp_path: Path) -> None:
    """Pages are complete and without duplicates while new evidence arrives."""
    with writing(tmp_path) as writer:
        writer.write(
            block_of_objects([item(number, NOON_S * NS + number * 1_000_000) for number in range(100)])
        )
        writer.tick(0)
        index = EvidenceSearch(tmp_path)
        first = index.search(Query(), 30)
        writer.write(
            block_of_objects([item(number, NOON_S * NS + number * 1_000_000) for number in range(100, 150)])
        )
        writer.tick(0)
        rest = []
        cursor = first.cursor
        while cursor:
            page = index.search(Query(), 30, cursor)
            rest += page.items
            cursor = page.cursor
    times_us = [one.time_us for one in (*first.items, *rest)]
    assert times_us == [NOON_S * 1_000_000 + number * 1000 for number in range(99, -1, -1)]


def test_invalid_cursor(tmp_path: Path) -> None:
    """An invalid cursor is an error with advice."""
    with pytest.raises(EvidenceError, match="start again without one"):
        EvidenceSearch(tmp_path).search(Query(), 5, "1-2")


def test_slow_search_returns_partial_pages(
    kept: tuple[Path, list[Evidence]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a time budget each page has the items of one stretch; together they are complete."""
    monkeypatch.setattr(search, "BUDGET_S", 0.0)
    index = EvidenceSearch(kept[0])
    query = Query(rule_id=100)
    all_pages = list(pages(index, query, 17))
    assert len(all_pages) > COUNT / 64
    expected = [one for one in kept[1] if holds(query, one)]
    assert_same([stored for page in all_pages for stored in page.items], expected)


@pytest.mark.parametrize(
    ("query", "bins", "length_s"),
    [
        (Query(), 120, 86_400 * 2),
        (Query(), 7, 1234),
        (Query(rule_class="threat"), 50, 5000),
        (Query(rule_class="os", port=80), 9, 777),
        (Query(devid=12), 500, 600),
        (
            Query(since_us=(MIDNIGHT_S - 100) * 1_000_000, until_us=(MIDNIGHT_S + 33) * 1_000_000 + 1),
            11,
            1000,
        ),
    ],
)
def test_histogram_counts_every_item_once(
    kept: tuple[Path, list[Evidence]], query: Query, bins: int, length_s: int
) -> None:
    """For any bins, each item is counted in the bin of its time and in its classes."""
    directory, items = kept
    since_us = MIDNIGHT_S * 1_000_000 - length_s * 500_000 + 7
    until_us = since_us + length_s * 1_000_000
    histogram = EvidenceSearch(directory).histogram(query, since_us, until_us, bins)
    assert len(histogram) == bins
    assert histogram[0]["time_us"] == since_us
    assert histogram[-1]["time_us"] < until_us
    expected: Counter[tuple[int, str]] = Counter()
    for one in items:
        time_us = one.timestamp_ns // 1000
        if (
            since_us <= time_us < until_us
            and holds(query, one)
            and (query.devid is None or one.interface == 2)
        ):
            number = sum(1 for bin_ in histogram if bin_["time_us"] <= time_us) - 1
            expected[number, "total"] += 1
            expected.update((number, rule_class) for rule_class in {m.rule.rule_class for m in one.matches})
    assert expected
    shown = {(number, name): bin_["classes"].get(name, bin_["total"]) for number, bin_ in enumerate(histogram)
             for name in ("total", *bin_["classes"])}  # fmt: skip
    assert {key: count for key, count in shown.items() if count} == expected


def test_status(kept: tuple[Path, list[Evidence]]) -> None:
    """The status has the evidence of each device, and says that all of it is indexed."""
    directory, items = kept
    status = EvidenceSearch(directory).status()
    for device, interface in zip(status["devices"], (1, 2), strict=True):
        times_us = [one.timestamp_ns // 1000 for one in items if one.interface == interface]
        files = list((directory / str(device["devid"])).glob("*.pcap"))
        assert device == {
            "devid": {1: 3, 2: 12}[interface],
            "pieces": len(times_us),
            "bytes": sum(path.stat().st_size for path in files),
            "oldest_us": min(times_us),
            "newest_us": max(times_us),
            "files": len(files),
        }
    total = sum(device["bytes"] for device in status["devices"])
    assert status["index"] == {"state": "ok", "done": total, "total": total}


def test_matches_are_located_in_the_stored_packets(tmp_path: Path) -> None:
    """A match has the place and version that the rule of that time finds; no place if the file is gone."""
    http = HttpReading((b"BREW ",))
    rules = [
        Rule(1, "service", "Sample", "Pot", r"pot/([\d.]+)", is_http=True, part="head"),
        Rule(2, "threat", "Sample", "Union", r"union\s", is_http=True, decode="url", version="9"),
    ]
    payload = b"BREW /pot/1.2 ?a=%75nion+select HTCPCP/1.0\r\n\r\n"
    one = item(1)
    one = one._replace(frame=one.frame + payload, payload_start=62, payload_end=62 + len(payload))
    one = one._replace(matches=tuple(Match(rule, 0, 1) for rule in rules))
    with writing(tmp_path) as writer:
        writer.write(replace(block_of_objects([one, item(2)], rules), http=http, digest="abc"))
    index = EvidenceSearch(tmp_path)
    [stored, other] = index.lookup(NOON_S * 1_000_000)
    assert (stored.rules, stored.http, stored.digest) == (tuple(rules), http, "abc")
    assert index.matches([stored, other]) == [
        [
            StoredMatch("service", 1, "Sample", "Pot", "1.2", None, None, 10, 13),
            StoredMatch("threat", 2, "Sample", "Union", "9", None, None, 17, 25),
        ],
        [],
    ]
    stored.path.unlink()
    assert [match[4:] for match in index.matches([stored])[0]] == [
        (None, None, None, None, None),
        ("9", None, None, None, None),
    ]
