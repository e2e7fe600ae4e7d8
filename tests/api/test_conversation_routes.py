"""Tests of conversations over HTTP: list, one, packets, transcript and files."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from api_samples import Server, open_directory, serving

from sensor.evidence.conversation import ConversationNote, Missing
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.model import Role
from tests.evidence.conversation_samples import (
    CLIENT,
    HIT,
    OTHER,
    REQUEST,
    RESPONSE,
    RULE,
    SERVER,
    STEP_US,
    STEPS,
    conversation,
    flags_of,
    note_of,
    number_at,
)

DEVID = 3
START_US = 1_687_089_600_000_000
NUMBER = number_at(START_US)
STARTS_US = [START_US + number * 60_000_000 for number in range(5)]
HOSTILE = "\u202e\u4f60\u597d\x00\r\n</p>".encode() + b"\xff union"


def keep_conversation(
    directory: Path, *notes: ConversationNote, starts_us: list[int], devid: int = DEVID
) -> Path:
    """Write conversations, each of another port, and what is known of them."""
    with closing(IndexedWriter(directory, devid)) as writer:
        for number, start_us in enumerate(starts_us):
            writer.write(conversation(start_us, sport=40000 + number))
        for note in notes:
            writer.index.note(note)
    return directory


@pytest.fixture(scope="module")
def talks() -> Iterator[Server]:
    """Yield the API over five conversations; all is known of the first one."""
    with open_directory() as directory:
        evidence = keep_conversation(directory / "evidence", note_of(), starts_us=STARTS_US)
        with serving(evidence, "--request-rate", "0") as running:
            yield running


def answer(server: Server, path: object) -> dict[str, Any]:
    """Return the JSON of a path below that of conversations."""
    response = server.get(f"/api/v1/conversations{path}")
    assert response.status_code == 200, response.text
    return dict(response.json())


def refusal(server: Server, path: object) -> tuple[int, str]:
    """Return status and detail of a problem."""
    response = server.get(f"/api/v1/conversations{path}")
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["detail"]


def test_one_conversation(talks: Server) -> None:
    """The answer has both ends, the totals of each direction, how it ended, and the rules that matched."""
    assert answer(talks, f"/{NUMBER}") == {
        "conversation": NUMBER,
        "devid": DEVID,
        "first_us": START_US,
        "first": "2023-06-18T12:00:00.000000Z",
        "last_us": START_US + 6 * STEP_US,
        "last": "2023-06-18T12:00:00.006000Z",
        "protocol": "TCP",
        "sip": CLIENT,
        "sport": 40000,
        "dip": SERVER,
        "dport": 80,
        "vlan": [],
        "community_id": "1:wh/NJ9XUH/PwR7vPwa0uSSZZw7c=",
        "packets_to_server": 4,
        "bytes_to_server": 4 * 54 + len(REQUEST),
        "packets_to_client": 3,
        "bytes_to_client": 3 * 54 + len(RESPONSE),
        "ended": "fin",
        "complete": True,
        "missing": [],
        "why_incomplete": [],
        "deleted": False,
        "lost": 0,
        "matches": [
            {"class": rule.rule_class, "rule": rule.rule_id, "type": rule.type, "name": rule.name}
            for rule in (RULE, OTHER)
        ],
    }


def test_every_packet_names_its_conversation(talks: Server) -> None:
    """The key and the microsecond of each packet lead to the same answer as the number."""
    expected = answer(talks, f"/{NUMBER}")
    packets = answer(talks, f"/{NUMBER}/packets")["packets"]
    assert len(packets) == len(STEPS)
    for packet in packets:
        assert answer(talks, f"/{packet['key']}") == expected
        assert answer(talks, f"/{packet['time_us']}?devid={DEVID}") == expected


@pytest.mark.parametrize("key", ["x", "3-20230618-1", NUMBER + 1, 0, "9" * 18, "9" * 40, "-1"])
@pytest.mark.parametrize("part", ["", "/packets", "/transcript", "/export"])
def test_names_of_no_conversation(talks: Server, key: object, part: str) -> None:
    """They are 404, whatever their form, and so is a conversation of another device."""
    for path in (f"/{key}{part}", f"/{NUMBER}{part}?devid=4"):
        status, detail = refusal(talks, path)
        assert (status, "no conversation has this number" in detail) == (404, True)


def test_two_devices_with_the_same_number(directory: Path) -> None:
    """The answer is 409 and names both; `devid` chooses one."""
    for devid in (3, 7):
        keep_conversation(directory / "evidence", note_of(), starts_us=[START_US], devid=devid)
    with serving(directory / "evidence") as running:
        for part in ("", "/packets", "/transcript", "/export"):
            status, detail = refusal(running, f"/{NUMBER}{part}")
            assert (status, detail) == (
                409,
                f"several conversations have this name; choose one: {NUMBER} of devid 3, {NUMBER} of devid 7",
            )
        assert answer(running, f"/{NUMBER}?devid=7")["devid"] == 7
        listed, cursor = [], ""
        while len(listed) < 3:
            page = answer(running, f"?limit=1{cursor}")
            listed += [one["devid"] for one in page["conversations"]]
            if page["cursor"] is None:
                break
            cursor = f"&cursor={page['cursor']}"
        assert listed == [7, 3]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [4, 3, 2, 1, 0]),
        ("class=threat&rule=50001", [4, 3, 2, 1, 0]),
        ("class=service", [4, 3, 2, 1, 0]),
        ("class=os", []),
        ("port=40002", [2]),
        ("network=192.0.2.0/24&protocol=tcp", [4, 3, 2, 1, 0]),
        ("network=203.0.113.1", []),
        (f"since_us={number_at(STARTS_US[3])}", [4, 3]),
        (f"until_us={number_at(STARTS_US[3])}", [2, 1, 0]),
        ("devid=4", []),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 50])
def test_the_list(talks: Server, query: str, expected: list[int], limit: int) -> None:
    """The newest conversation is first; all pages together have each once, as the answer for it alone."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = answer(talks, f"?limit={limit}&{query}{cursor}")
        assert len(page["conversations"]) <= limit
        found += page["conversations"]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert [one["sport"] - 40000 for one in found] == expected
    for one in found[:1]:
        assert one == answer(talks, f"/{one['conversation']}")


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("?cursor=abc", "is not a valid cursor"),
        ("?limit=101", "limit: "),
        ("?text=union", "text: no such parameter"),
        (f"/{NUMBER}?limit=3", "limit: no such parameter"),
        (f"/{NUMBER}/packets?limit=10001", "limit: "),
        (f"/{NUMBER}/transcript?limit_bytes=0", "limit_bytes: "),
        (f"/{NUMBER}/export?format=zip", "format: Input should be 'pcap' or 'pcapng'"),
    ],
)
def test_parameters_that_are_refused(talks: Server, path: str, detail: str) -> None:
    """The detail names the invalid parameter."""
    status, said = refusal(talks, path)
    assert (status, detail in said) == (422, True)


def test_packets_in_order(talks: Server) -> None:
    """Each is an evidence item, with its direction and the time since the one before."""
    found = answer(talks, f"/{NUMBER}/packets")
    assert not found["cut"]
    for at, (packet, (is_client, _, payload, role, rules)) in enumerate(
        zip(found["packets"], STEPS, strict=True)
    ):
        assert packet["direction"] == ("to_server" if is_client else "to_client")
        assert (packet["role"], packet["conversation"]) == (role.name.lower(), NUMBER)
        assert packet["time_us"] == START_US + at * STEP_US
        assert packet["after_us"] == (STEP_US if at else 0)
        assert (packet["payload_bytes"], packet["wirelen"]) == (len(payload), 54 + len(payload))
        assert len(packet["matches"]) == len(rules)
        item = talks.get(f"/api/v1/evidence/{packet['key']}").json()
        assert {name: item[name] for name in packet if name in item} == {
            name: packet[name] for name in packet if name in item
        }
    part = answer(talks, f"/{NUMBER}/packets?limit=3")
    assert part == {"packets": found["packets"][:3], "cut": True}
    assert not answer(talks, f"/{NUMBER}/packets?limit={len(STEPS)}")["cut"]


def marked(passage: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """Return the parts of a passage."""
    return [(part["text"], part["matches"]) for part in passage["parts"]]


def test_the_transcript(talks: Server) -> None:
    """Request and response are text, escaped, in parts that are in a match or are not."""
    found = answer(talks, f"/{NUMBER}/transcript")
    request, response = found["passages"]
    assert (request["direction"], request["role"]) == ("to_server", "hit")
    assert (request["payload_bytes"], request["cut"], found["cut"]) == (len(REQUEST), False, False)
    assert marked(request) == [
        ("GET /?id=1+", []),
        ("union", [0]),
        ("+select HTTP/1.1\nHost: \\x1b[31m\\xff\n\n", []),
    ]
    [match] = request["matches"]
    assert REQUEST[match["start"] : match["end"]] == b"union"
    assert response["direction"] == "to_client"
    assert [text for text, matches in marked(response) if matches] == ["Apache"]
    assert "".join(text for text, _ in marked(response)).endswith("\n\nalice:secret\n")


@pytest.mark.parametrize("limit_bytes", [1, 13, len(REQUEST), len(REQUEST) + 1])
def test_a_transcript_is_cut(talks: Server, limit_bytes: int) -> None:
    """It has as many bytes as were asked for, and says that there are more."""
    found = answer(talks, f"/{NUMBER}/transcript?limit_bytes={limit_bytes}")
    assert found["cut"]
    assert [passage["cut"] for passage in found["passages"]][-1]
    text = "".join(text for passage in found["passages"] for text, _ in marked(passage))
    whole = (REQUEST + RESPONSE)[:limit_bytes].decode("utf-8", "backslashreplace")
    assert text == whole.replace("\x1b", "\\x1b").replace("\r\n", "\n").replace("\r", "\\x0d")
    exact = len(REQUEST) + len(RESPONSE)
    assert not answer(talks, f"/{NUMBER}/transcript?limit_bytes={exact}")["cut"]


def test_what_strangers_wrote_is_escaped(directory: Path) -> None:
    """UTF-8 stays readable; what shows nothing or turns text around is an escape."""
    hit = (True, 24, HOSTILE, Role.HIT, (0,))
    with closing(IndexedWriter(directory / "evidence", DEVID)) as writer:
        writer.write(conversation(START_US, [*STEPS[:HIT], hit]))
    with serving(directory / "evidence") as running:
        [passage] = answer(running, f"/{NUMBER}/transcript")["passages"]
        assert "".join(text for text, _ in marked(passage)) == "\\u202e你好\\x00\n</p>\\xff union"
        assert marked(passage)[-1] == ("union", [0])
        assert running.get(f"/api/v1/conversations/{NUMBER}/transcript").text.isascii()


def test_what_is_not_known(talks: Server, directory: Path) -> None:
    """A conversation without a note says so; one that lacks packets says why."""
    unknown = answer(talks, f"/{number_at(STARTS_US[1])}")
    assert (unknown["ended"], unknown["complete"], unknown["missing"], unknown["lost"]) == (
        "fin",
        None,
        None,
        None,
    )
    assert unknown["why_incomplete"] == ["not known, because the index was rebuilt from the files"]
    note = note_of()._replace(missing=Missing.LOST | Missing.BEGINNING, lost=12)
    keep_conversation(directory / "evidence", note, starts_us=[START_US])
    with serving(directory / "evidence") as running:
        lossy = answer(running, f"/{NUMBER}")
        assert (lossy["complete"], lossy["missing"], lossy["lost"]) == (False, ["beginning", "lost"], 12)
        assert lossy["why_incomplete"][1] == "frames were lost while it ran"
        for path in (directory / "evidence").glob("*/*.pcap"):
            path.unlink()
        passages = answer(running, f"/{NUMBER}/transcript")["passages"]
        assert [passage["parts"] for passage in passages] == [None, None]
        assert [passage["payload_bytes"] for passage in passages] == [len(REQUEST), len(RESPONSE)]


@pytest.mark.parametrize("container", ["pcap", "pcapng"])
def test_a_conversation_as_a_file(directory: Path, tmp_path: Path, container: str) -> None:
    """A program reads its packets in order; pcapng has their roles, and what was lost meanwhile."""
    keep_conversation(directory / "evidence", note_of()._replace(lost=12), starts_us=STARTS_US)
    with serving(directory / "evidence") as running:
        response = running.get(f"/api/v1/conversations/{NUMBER}/export?format={container}")
    disposition = f'attachment; filename="3-conversation-{NUMBER}.{container}"'
    assert response.headers["content-disposition"] == disposition
    file = tmp_path / "download"
    file.write_bytes(response.content)
    command = ["tshark", "-r", file, "-T", "fields", "-e", "tcp.flags", "-e", "frame.comment"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [int(flags, 16) for flags, _ in lines] == flags_of(conversation())
    roles = [re.findall(rf"(\w+) in conversation {NUMBER}$", comment) for _, comment in lines]
    details = subprocess.run(["capinfos", "-I", file], check=True, capture_output=True, text=True).stdout
    if container == "pcap":
        assert roles == [[]] * len(STEPS)
    else:
        assert roles == [[role.name.lower()] for *_, role, _ in STEPS]
        assert re.search(r"Number of stat entries = 1\b", details)
        assert (12).to_bytes(8, "little") in response.content[-64:]


def test_the_default_file_is_pcapng(talks: Server) -> None:
    """Only that format has room for roles."""
    response = talks.get(f"/api/v1/conversations/{NUMBER}/export")
    assert response.headers["content-type"] == "application/x-pcapng"


def test_the_audit_log_counts_packets(directory: Path) -> None:
    """Each answer is logged with the number of packets that it shows or describes."""
    keep_conversation(directory / "evidence", note_of(), starts_us=STARTS_US)
    with serving(directory / "evidence") as running:
        for path in ("?limit=2", f"/{NUMBER}", f"/{NUMBER}/packets?limit=3", f"/{NUMBER}/transcript"):
            answer(running, path)
        running.get(f"/api/v1/conversations/{NUMBER}/export")
        refusal(running, "/1")
    assert [line["pieces"] for line in running.audit()] == [14, 7, 3, 2, 7]
