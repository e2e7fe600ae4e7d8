"""Tests of search, single items, histogram, rules and status."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from api_samples import (
    CLIENT,
    DEVID,
    ITEMS,
    NOON_US,
    OTHER_RULE,
    REPLY,
    RULE,
    Server,
    evidence_item,
    keep,
    serving,
)

SECOND_US = 1_000_000
ALL = [*ITEMS[:8], REPLY, *ITEMS[8:]]


def found(server: Server, query: str = "") -> list[dict[str, Any]]:
    """Return all results of a search, read page by page."""
    items: list[dict[str, Any]] = []
    cursor = ""
    while True:
        response = server.get(f"/api/v1/evidence?limit=7&{query}{cursor}")
        assert response.status_code == 200, response.text
        page = response.json()
        assert len(page["items"]) <= 7
        items += page["items"]
        if page["cursor"] is None:
            return items
        cursor = f"&cursor={page['cursor']}"


def test_all_evidence_the_newest_first(server: Server) -> None:
    """All pages together have each item once, newest first."""
    times_us = [item["time_us"] for item in found(server)]
    assert times_us == sorted((one.timestamp_ns // 1000 for one in ALL), reverse=True)


def test_fields_of_an_item(server: Server) -> None:
    """An item has every field of the index."""
    [item] = found(server, "text=/13%20http")
    one = ITEMS[13]
    assert item == {
        "key": item["key"],
        "devid": DEVID,
        "time_us": NOON_US + 13 * SECOND_US,
        "time": "2023-06-18T12:00:13.000000Z",
        "caplen": one.caplen,
        "wirelen": one.wirelen,
        "protocol": "TCP",
        "sip": CLIENT,
        "sport": 40013,
        "dip": "198.51.100.20",
        "dport": 80,
        "vlan": [],
        "interface": item["interface"],
        "file": "202306181200-threat.pcap",
        "offset": 24 + sum(16 + other.caplen for other in ALL[: ALL.index(one)] if len(other.matches) == 2),
        "matches": [
            {
                "class": rule.rule_class,
                "rule": rule.rule_id,
                "type": rule.type,
                "name": rule.name,
                "version": rule.version,
                "vendor": None,
                "os": None,
                "start": 0,
                "end": 3,
            }
            for rule in (RULE, OTHER_RULE)
        ],
        "incomplete": False,
        "role": "hit",
        "conversation": None,
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"since_us={NOON_US + 30 * SECOND_US}", 10),
        (f"until_us={NOON_US + SECOND_US}", 1),
        (f"since_us={NOON_US}&until_us={NOON_US + 1}", 1),
        ("devid=3", 41),
        ("devid=4", 0),
        ("network=198.51.100.0/24", 41),
        ("network=203.0.113.1", 0),
        ("network=2001:db8::/32", 0),
        ("port=40007", 2),
        ("protocol=tcp", 41),
        ("protocol=17", 0),
        ("class=threat", 21),
        ("class=os", 0),
        ("rule=10002", 41),
        ("class=threat&rule=10002", 0),
        ("text=FOUND", 1),
        ("text=nowhere", 0),
    ],
)
def test_filters(server: Server, query: str, expected: int) -> None:
    """Each filter finds the expected number of items."""
    assert len(found(server, query)) == expected


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("evidence?cursor=abc", "is not a valid cursor"),
        ("evidence?limit=0", "limit: "),
        ("evidence?limit=501", "limit: "),
        ("evidence?class=worm", "class: Input should be 'service', 'device'"),
        ("evidence?protocol=256", "protocol: is not a protocol"),
        ("evidence?protocol=xyz", "protocol: is not a protocol: give ICMP, TCP"),
        ("evidence?network=10.0.0.0/33", "network: is not an address"),
        ("evidence?since_us=2&until_us=2", "until_us must be after since_us"),
        ("evidence?text=", "text: "),
        ("histogram?bins=501", "bins: "),
        ("histogram?limit=3", "limit: no such parameter"),
        ("export.pcap?bins=3", "bins: no such parameter"),
        ("export.zip", "container: Input should be 'pcap' or 'pcapng'"),
    ],
)
def test_invalid_parameters_are_named(server: Server, path: str, detail: str) -> None:
    """The detail names the invalid parameter."""
    response = server.get(f"/api/v1/{path}")
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert detail in response.json()["detail"]


def test_an_item_with_its_bytes(server: Server) -> None:
    """The answer has the frame, the offsets of the payload, and the layers."""
    [item] = found(server, "text=/13%20http")
    response = server.get(f"/api/v1/evidence/{item['key']}").json()
    frame = bytes.fromhex(response["frame"])
    assert {name: response[name] for name in item} == item
    assert frame == ITEMS[13].frame
    assert frame[response["payload_start"] : response["payload_end"]] == ITEMS[13].payload
    assert [layer["name"] for layer in response["layers"]] == ["Ethernet", "IPv4", "TCP", "HTTP"]
    [target] = [field for field in response["layers"][3]["fields"] if field["name"] == "target"]
    assert target["value"] == "/13"
    assert frame[target["start"] : target["end"]] == b"/13"


@pytest.mark.parametrize(
    "key",
    ["x", "3-20230618-1", "4-20230618-1", "3-20230618-9999999999999999999", "3-99999999-1", "3-20230618--1"],
)
def test_unknown_key(server: Server, key: str) -> None:
    """A key without an item is 404, whatever its form."""
    for path in (key, f"{key}/pcap", f"{key}/flow.pcap"):
        response = server.get(f"/api/v1/evidence/{path}")
        assert (response.status_code, response.json()["title"]) == (404, "Not Found")


def test_a_histogram_counts_what_a_search_finds(server: Server) -> None:
    """The bins add up to the items found, over all evidence or in the given range."""
    counted = server.get("/api/v1/histogram?bins=10").json()
    assert (counted["since_us"], counted["until_us"]) == (NOON_US, NOON_US + 39 * SECOND_US + 1)
    assert sum(one["total"] for one in counted["bins"]) == 41
    assert sum(one["classes"]["threat"] for one in counted["bins"]) == 21
    times_us = [one["time_us"] for one in counted["bins"]]
    assert times_us == [NOON_US + number * counted["bin_us"] for number in range(10)]
    for since_us, until_us in ((0, 1 << 51), (NOON_US - SECOND_US, NOON_US + 9 * SECOND_US)):
        span = f"since_us={since_us}&until_us={until_us}"
        counted = server.get(f"/api/v1/histogram?bins=5&class=threat&{span}").json()
        assert sum(one["total"] for one in counted["bins"]) == len(found(server, f"class=threat&{span}"))


def test_an_index_of_another_version_is_not_counted(directory: Path) -> None:
    """A histogram over an index of another version is 503, not a row of zeros."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    [path] = evidence.glob("*/*.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with serving(evidence) as running:
        response = running.get("/api/v1/histogram?since_us=0")
        assert response.status_code == 503
        assert (
            f"{path} cannot be read (not an index of this version: its format is 99, not"
            in response.json()["detail"]
        )


def test_rules_are_those_of_the_files(server: Server) -> None:
    """The answer has the rules and the digest of their files."""
    answer = server.get("/api/v1/rules").json()
    assert len(answer["digest"]) == 64
    assert {"rule", "class", "name", "regex", "desc"} <= set(answer["rules"][0])


def test_status(server: Server) -> None:
    """The status has the evidence per device, the state of the index, and the disk."""
    status = server.get("/api/v1/status").json()
    [device] = status["devices"]
    assert (device["devid"], device["pieces"]) == (DEVID, len(ALL))
    assert device["bytes"] == 2 * 24 + sum(16 + one.caplen for one in ALL)
    assert (device["oldest_us"], device["newest_us"]) == (NOON_US, NOON_US + 39 * SECOND_US)
    assert status["index"]["state"] == "ok"
    assert 0 < status["disk"]["free_bytes"] < status["disk"]["total_bytes"]
