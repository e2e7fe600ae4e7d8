"""Tests of the lookup by microsecond."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from api_samples import (
    CLIENT,
    HOST,
    NOON_US,
    Server,
    evidence_item,
    example,
    example_item,
    keep,
    open_directory,
    serving,
)

MANY = [evidence_item(number, NOON_US) for number in range(5)]


@pytest.fixture(scope="module")
def asked() -> Iterator[Server]:
    """Yield the API over two devices: five packets of one microsecond, one of the next, one on device 4."""
    with open_directory() as directory:
        evidence = keep(directory / "evidence", [*MANY, evidence_item(5, NOON_US + 1)])
        keep(evidence, [evidence_item(6, NOON_US)], devid=4)
        with serving(evidence) as running:
            yield running


def ports(response: httpx.Response) -> list[int]:
    """Return the source ports in an answer, which identify the packets."""
    assert response.status_code == 200, response.text
    return [packet["sport"] for packet in response.json()]


def test_the_example(directory: Path) -> None:
    """The answer has every field of the example in the same order."""
    keep(directory / "evidence", [example_item()])
    with serving(directory / "evidence") as running:
        response = running.get(f"/{example()['request']}")
    assert response.json() == example()["response"]
    assert list(response.json()[0]) == list(example()["response"][0])
    assert response.headers["content-type"] == "application/json"


def test_all_packets_of_the_microsecond(asked: Server) -> None:
    """All packets come, those of each file in its order, from one device or from all."""
    found = ports(asked.get(f"/evidence?time={NOON_US}&devid=3"))
    assert [port for port in found if port % 2] == [40001, 40003]
    assert [port for port in found if not port % 2] == [40000, 40002, 40004]
    assert ports(asked.get(f"/evidence?time={NOON_US}")) == [*found, 40006]
    assert ports(asked.get(f"/evidence?time={NOON_US + 1}&devid=3")) == [40005]


def test_seconds_and_microseconds(asked: Server) -> None:
    """The time can be given as two numbers."""
    seconds, microseconds = divmod(NOON_US + 1, 1_000_000)
    assert ports(asked.get(f"/evidence?time_sec={seconds}&time_usec={microseconds}")) == [40005]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (f"ip={CLIENT}", 5),
        (f"ip={HOST}", 5),
        ("ip=192.0.2.11", 0),
        ("port=40003", 1),
        ("port=80", 5),
        (f"port=40003&ip={HOST}", 1),
        ("port=1", 0),
    ],
)
def test_address_and_port_of_either_side(asked: Server, filters: str, expected: int) -> None:
    """Address and port match either side; with both, both must match."""
    assert len(ports(asked.get(f"/evidence?time={NOON_US}&devid=3&{filters}"))) == expected


def test_download_is_a_pcap_file(asked: Server, tmp_path: Path) -> None:
    """The file has exactly the packets of the microsecond."""
    response = asked.get(f"/evidence?time={NOON_US}&devid=3&download=true")
    assert response.headers["content-disposition"] == 'attachment; filename="evidence.pcap"'
    (tmp_path / "evidence.pcap").write_bytes(response.content)
    command = [
        "tshark",
        "-r",
        tmp_path / "evidence.pcap",
        "-T",
        "fields",
        "-e",
        "tcp.srcport",
        "-e",
        "frame.len",
    ]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert sorted(shown) == [f"{one.five_tuple.sport}\t{one.wirelen}" for one in MANY]


@pytest.mark.parametrize(
    "moment", ["time=0", f"time={NOON_US - 1}", f"time={NOON_US}&devid=77", "time=4294967295999999"]
)
def test_nothing_is_an_empty_list(asked: Server, moment: str) -> None:
    """Without a packet the answer is an empty list, and a download is 404."""
    response = asked.get(f"/evidence?{moment}")
    assert (response.status_code, response.json()) == (200, [])
    download = asked.get(f"/evidence?{moment}&download=true")
    assert (download.status_code, download.json()["title"]) == (404, "Not Found")


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("", "give time (microseconds)"),
        ("time=abc", "time: Input should be a valid integer"),
        ("time=-1", "time: Input should be greater than or equal to 0"),
        (f"time={NOON_US * 1000}", "time: is after the year 2106; give microseconds"),
        ("time_sec=1687089600", "give time (microseconds)"),
        ("time_sec=1687089600&time_usec=1000000", "time_usec: Input should be less than 1000000"),
        (f"time={NOON_US}&time_sec=1&time_usec=1", "give time (microseconds)"),
        (f"time={NOON_US}&time={NOON_US + 1}", "time: given more than once"),
        (f"time={NOON_US}&ip=example.org", "ip: is not an address"),
        (f"time={NOON_US}&port=65536", "port: Input should be less than or equal to 65535"),
        (f"time={NOON_US}&devid=three", "devid: Input should be a valid integer"),
        (f"time={NOON_US}&dewid=3", "dewid: no such parameter"),
        (f"time={'9' * 5000}", "time: "),
        ("&".join(f"f{number}=1" for number in range(900)), "no such parameter"),
    ],
)
def test_invalid_parameters(asked: Server, query: str, detail: str) -> None:
    """Invalid parameters are answered with short problem details."""
    response = asked.get(f"/evidence?{query}")
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (response.status_code, problem["status"], problem["type"]) == (422, 422, "about:blank")
    assert detail in problem["detail"]
    assert len(problem["detail"]) <= 1000


def test_ten_thousand_filters_are_too_many(asked: Server) -> None:
    """A query that is too long is refused unread."""
    query = "&".join(f"port={number}" for number in range(10_000))
    for part in (query, query[:20_000]):
        connection = HTTPConnection(asked.client.base_url.host, asked.client.base_url.port or 0)
        with closing(connection):
            connection.request("GET", f"/evidence?time={NOON_US}&{part}")
            assert connection.getresponse().status in (400, 414)


@pytest.mark.parametrize("damage", ["removed", "garbage", "shorter", "another"])
def test_missing_evidence_is_410(directory: Path, damage: str) -> None:
    """The answer is 410 if the indexed file was deleted or replaced."""
    keep(directory / "evidence", MANY[::2])  # none is a threat, so they are in one file
    [file] = (directory / "evidence" / "3").glob("*.pcap")
    content = file.read_bytes()
    changed = {
        "garbage": bytes(len(content)),
        "shorter": content[:30],
        "another": content[:24] + content[25:],
    }
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(changed[damage])
    with serving(directory / "evidence") as running:
        for path in (f"/evidence?time={NOON_US}", f"/evidence?time={NOON_US}&download=true"):
            response = running.get(path)
            assert response.headers["content-type"] == "application/problem+json"
            assert response.status_code == 410, response.text
            assert file.name in response.json()["detail"]
        [key, *_] = [item["key"] for item in running.get("/api/v1/evidence").json()["items"]]
        assert running.get(f"/api/v1/evidence/{key}").status_code == 410
        assert running.get(f"/api/v1/evidence/{key}/pcap").status_code == 410


def test_incomplete_index_is_503(directory: Path) -> None:
    """Until all files are indexed, the answer is 503 and not an empty list."""
    keep(directory / "evidence", MANY)
    for file in (directory / "evidence" / "3").glob("*.sqlite*"):
        file.unlink()
    with serving(directory / "evidence") as running:
        response = running.get(f"/evidence?time={NOON_US}")
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert "the index is rebuilding" in response.json()["detail"]
        assert running.get("/api/v1/status").json()["index"]["state"] == "rebuilding"
