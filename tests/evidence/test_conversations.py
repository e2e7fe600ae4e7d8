"""Conversations as they are found, shown and exported; built by hand, with real frames and a real index."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conversation_samples import (
    CLIENT,
    ENDS,
    HIT,
    MIDNIGHT_US,
    OTHER,
    RESPONSE,
    RST,
    RULE,
    STEP_US,
    STEPS,
    conversation,
    flags_of,
    note_of,
    number_at,
)
from evidence_samples import DEVID, NOON_S, item, writing

from sensor.errors import EvidenceError
from sensor.evidence.block import block_of_objects
from sensor.evidence.conversation import ConversationNote, Ending, Missing
from sensor.evidence.conversation_search import ConversationSearch, the_one
from sensor.evidence.file_name import FileKind, parse_name
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.stored_conversation import ENDINGS, MISSING, StoredConversation
from sensor.evidence.writer import EvidenceWriter
from sensor.model import Role
from tests.rules.commands import sensor

START_US = NOON_S * 1_000_000
NUMBER = number_at(START_US)
COMMUNITY_ID = "1:wh/NJ9XUH/PwR7vPwa0uSSZZw7c="


@contextmanager
def stored(
    evidence: Path, *notes: ConversationNote, starts_us: tuple[int, ...] = (START_US,)
) -> Iterator[EvidenceWriter]:
    """Write conversations, each of another port, and their notes."""
    with writing(evidence) as writer:
        for number, start_us in enumerate(starts_us):
            writer.write(conversation(start_us, sport=40000 + number))
        for note in notes:
            writer.index.note(note)
        yield writer


def only(evidence: Path, key: object = NUMBER) -> StoredConversation:
    """Return the conversation that a key names."""
    return the_one(ConversationSearch(evidence).find(str(key)), str(key))


def test_a_conversation_has_all_its_packets(tmp_path: Path) -> None:
    """Packets of both directions in order, from several files, with totals, ending and Community ID."""
    with stored(tmp_path, note_of()):
        pass
    found = only(tmp_path)
    assert [one.role for one in found.packets] == [role for *_, role, _ in STEPS]
    assert [place.is_to_server for place in found.places()] == [is_client for is_client, *_ in STEPS]
    assert [place.after_us for place in found.places()] == [0, *[STEP_US] * 6]
    assert len({one.path for one in found.packets}) == 3
    assert found.rules == [RULE, OTHER]
    assert found.direction(to_server=True) == (4, 3 * 54 + 54 + len(STEPS[HIT][2]))
    assert found.direction(to_server=False) == (3, 3 * 54 + len(RESPONSE))
    assert (found.first_us, found.last_us) == (START_US, START_US + 6 * STEP_US)
    assert found.five_tuple.source_text == CLIENT
    assert (found.ended, found.is_complete, found.why_incomplete) == (Ending.FIN, True, [])
    assert found.community_id == COMMUNITY_ID


def test_the_keys_of_a_conversation(tmp_path: Path) -> None:
    """Its number, and the time or the key of any of its packets, name it; others name none."""
    with stored(tmp_path, note_of()) as writer:
        writer.write(block_of_objects([item(1, (NOON_S + 9) * 10**9)]))
    keys = [NUMBER, *(START_US + number * STEP_US for number in range(len(STEPS)))]
    keys += [one.key for one in EvidenceSearch(tmp_path).iterate(Query()) if one.conversation]
    assert len(keys) == 1 + 2 * len(STEPS)
    assert {only(tmp_path, key).number for key in keys} == {NUMBER}
    assert ConversationSearch(tmp_path).find(str(NUMBER), devid=DEVID + 1) == []
    for key in (NUMBER + 1, (NOON_S + 9) * 1_000_000, "nonsense", "3-20230618-1", "1" * 18, 0):
        with pytest.raises(EvidenceError, match="there is no conversation"):
            only(tmp_path, key)


def test_two_devices_with_the_same_number(tmp_path: Path) -> None:
    """One has to be chosen."""
    with stored(tmp_path, note_of()):
        pass
    (tmp_path / str(DEVID)).rename(tmp_path / "7")
    with stored(tmp_path, note_of()):
        pass
    with pytest.raises(EvidenceError, match="choose one with --devid: 3, 7"):
        only(tmp_path)
    assert [one.devid for one in ConversationSearch(tmp_path).find(str(NUMBER), devid=7)] == [7]


@pytest.mark.parametrize("shift", [1, HIT, HIT + 1, len(STEPS) - 1])
def test_a_conversation_across_midnight(tmp_path: Path, shift: int) -> None:
    """Its packets are in two databases, whichever side of midnight the match is on."""
    start_us = MIDNIGHT_US - shift * STEP_US
    with stored(tmp_path, note_of(start_us), starts_us=(start_us,)):
        pass
    assert len(list((tmp_path / str(DEVID)).glob("*.sqlite"))) == 2
    found = only(tmp_path, number_at(start_us))
    assert len(found.packets) == len(STEPS)
    assert found.is_complete
    assert [one.number for one in ConversationSearch(tmp_path).page(Query(), 9).conversations] == [
        found.number
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *(({"missing": part}, words) for part, words in MISSING.items()),
        *(
            ({"ended": ending}, words)
            for ending, words in ENDINGS.items()
            if ending not in (Ending.FIN, Ending.RST)
        ),
        ({"packets": len(STEPS) + 1}, "packets were deleted since"),
    ],
    ids=str,
)
def test_what_makes_it_incomplete(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    """The reason is said in words."""
    with stored(tmp_path, note_of()._replace(**change)):
        pass
    found = only(tmp_path)
    assert (found.is_complete, found.why_incomplete) == (False, [reason])


def test_several_reasons(tmp_path: Path) -> None:
    """All are named, in the order of the packets they concern."""
    with stored(tmp_path, note_of()._replace(missing=Missing.LOST | Missing.BEGINNING)):
        pass
    assert only(tmp_path).why_incomplete == [MISSING[Missing.BEGINNING], MISSING[Missing.LOST]]


def test_context_that_was_deleted(tmp_path: Path) -> None:
    """Once retention has deleted files of context, the rest is still a conversation, but incomplete."""
    with stored(tmp_path, note_of()) as writer:
        writer.tick((NOON_S + 900) * 10**9)
        [path] = [one for one in writer.paths if parse_name(one.name).kind == FileKind.CONTEXT]
        path.unlink()
        writer.index.forget([path.name])
    found = only(tmp_path)
    assert [one.role for one in found.packets] == [Role.HIT, Role.HIT]
    assert found.why_incomplete == ["packets were deleted since"]


def test_a_conversation_without_a_note(tmp_path: Path) -> None:
    """How it ended is seen from the flags of its packets; what it lacks is unknown, and said to be."""
    with stored(tmp_path):
        pass
    found = only(tmp_path)
    assert (found.ended, found.is_complete) == (Ending.FIN, None)
    assert found.why_incomplete == ["not known, because the index was rebuilt from the files"]


def test_a_reset_is_seen(tmp_path: Path) -> None:
    """A reset ends a connection, whatever came before."""
    with writing(tmp_path) as writer:
        reset = (False, RST, b"", Role.AFTER, ())
        writer.write(conversation(steps=[*STEPS[:-1], reset]))
    assert only(tmp_path).ended == Ending.RST


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), [3, 2, 1, 0]),
        (Query(rule_class="threat"), [3, 2, 1, 0]),
        (Query(rule_class="service", rule_id=21), [3, 2, 1, 0]),
        (Query(rule_class="device"), []),
        (Query(rule_id=50001, port=40002), [2]),
        (Query(protocol=17), []),
        (Query(since_us=NUMBER + 1), [3, 2, 1]),
        (Query(until_us=NUMBER + 1), [0]),
        (Query(since_us=NUMBER + 86_400_000_000), [3]),
        (Query(devid=DEVID + 1), []),
    ],
)
def test_the_list(tmp_path: Path, query: Query, expected: list[int]) -> None:
    """The newest is first; a conversation is there if one of its matches meets the filters."""
    starts_us = (START_US, START_US + 1, START_US + 60_000_000, START_US + 86_400_000_000)
    with stored(tmp_path, starts_us=starts_us) as writer:
        writer.write(block_of_objects([item(1)]))
    numbers = [number_at(start_us) for start_us in starts_us]
    search = ConversationSearch(tmp_path)
    for limit in (1, 2, 9):
        found, before = [], None
        while True:
            page, before = search.page(query, limit, before)
            assert len(page) <= limit
            found += [numbers.index(one.number) for one in page]
            if before is None:
                break
        assert found == expected


def test_the_command(tmp_path: Path) -> None:
    """The output has the head, then the packets with their payload, escaped."""
    with stored(tmp_path, note_of()._replace(missing=Missing.LOST, lost=12)):
        pass
    done = sensor("evidence", "conversation", NUMBER, "--evidence", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out == "\n".join([
        f"conversation {NUMBER} of device 3",
        f"    {ENDS}",
        f"    Community ID {COMMUNITY_ID}",
        "    2023-06-18 12:00:00.000000 to 2023-06-18 12:00:00.006000 UTC",
        "    to the server 4 packets, 266 bytes; to the client 3 packets, 210 bytes",
        "    closed by FIN",
        "    incomplete: frames were lost while it ran",
        "    12 frames of any flow lost meanwhile",
        "    match: threat 50001 SQL union select",
        "    match: service 21 Apache",
        "",
        "12:00:00.000000  +0.000000 s  >  before     54 bytes",
        "",
        "12:00:00.001000  +0.001000 s  <  before     54 bytes",
        "",
        "12:00:00.002000  +0.001000 s  >  before     54 bytes",
        "",
        "12:00:00.003000  +0.001000 s  >  hit       104 bytes  threat 50001 SQL union select",
        "    GET /?id=1+union+select HTTP/1.1",
        r"    Host: \x1b[31m\xff",
        "",
        "",
        "12:00:00.004000  +0.001000 s  <  hit       102 bytes  service 21 Apache",
        "    HTTP/1.1 200 OK",
        "    Server: Apache",
        "",
        "    alice:secret",
        "",
        "12:00:00.005000  +0.001000 s  >  after      54 bytes",
        "",
        "12:00:00.006000  +0.001000 s  <  after      54 bytes",
        "",
    ])  # fmt: skip


def test_the_commands_as_json(tmp_path: Path) -> None:
    """One object has the conversation and its packets; the list has the same without packets."""
    with stored(tmp_path, note_of()):
        pass
    [shown] = sensor("evidence", "conversation", NUMBER, "--json", "--evidence", tmp_path).objects
    packets = shown.pop("packets")
    assert sensor("evidence", "conversations", "--json", "--evidence", tmp_path).objects == [shown]
    assert shown["community_id"] == COMMUNITY_ID
    assert (shown["ended"], shown["complete"], shown["missing"], shown["lost"]) == ("fin", True, [], 0)
    assert [(one["role"], one["direction"], one["after_us"], one["payload"]) for one in packets] == [
        (role.name.lower(), "to_server" if is_client else "to_client", STEP_US * bool(at), payload.hex())
        for at, (is_client, _, payload, role, _) in enumerate(STEPS)
    ]
    assert {one["conversation"] for one in packets} == {NUMBER}
    assert [match["rule"] for one in packets for match in one["matches"]] == [50001, 21]


def test_the_list_command(tmp_path: Path) -> None:
    """A line per conversation."""
    with stored(tmp_path, note_of()):
        pass
    done = sensor("evidence", "conversations", "--class", "threat", "--evidence", tmp_path)
    assert done.code == 0, done.err
    assert re.fullmatch(
        f"2023-06-18 12:00:00.000000  {NUMBER}  threat 50001 SQL union select; service 21 Apache +"
        f"{re.escape(ENDS)}  7 packets, complete\n",
        done.out,
    )
    assert sensor("evidence", "conversations", "--text", "x", "--evidence", tmp_path).code == 2


def test_packets_show_their_conversation(tmp_path: Path) -> None:
    """`list` and `show` say the role and the conversation of a packet."""
    with stored(tmp_path, note_of()):
        pass
    listed = sensor("evidence", "list", "--evidence", tmp_path).out.splitlines()
    assert all(line.endswith(f"bytes  conversation {NUMBER}") for line in listed)
    assert ["after a match" in line for line in listed[:3]] == [True, True, False]
    assert ["before a match" in line for line in listed[3:]] == [False, True, True, True]
    shown = sensor("evidence", "show", START_US, "--evidence", tmp_path).out
    assert f"    before a match, in conversation {NUMBER}" in shown.splitlines()


def test_a_conversation_as_a_capture_file(tmp_path: Path) -> None:
    """The packets are exported in order; pcapng has roles as comments, and what was lost as statistics."""
    with stored(tmp_path, note_of()._replace(lost=12)):
        pass
    for name in ("one.pcap", "one.pcapng"):
        done = sensor("evidence", "conversation", NUMBER, "-o", tmp_path / name, "--evidence", tmp_path)
        assert (done.code, done.out) == (0, "")
        assert done.err == f"7 packets in {tmp_path / name}\n"
        read = subprocess.run(
            ["tshark", "-r", tmp_path / name, "-T", "fields", "-e", "tcp.flags", "-e", "frame.comment"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines = [line.split("\t") for line in read.stdout.splitlines()]
        assert [int(flags, 16) for flags, _ in lines] == flags_of(conversation())
    suffix = f" in conversation {NUMBER}"
    assert [comment for _, comment in lines] == [
        *[f"before{suffix}"] * 3,
        f"threat 50001 SQL union select; hit{suffix}",
        f"service 21 Apache; hit{suffix}",
        *[f"after{suffix}"] * 2,
    ]
    details = subprocess.run(
        ["capinfos", "-I", tmp_path / "one.pcapng"], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"Number of stat entries = 1\b", details)
    block = (tmp_path / "one.pcapng").read_bytes()[-64:]
    assert (12).to_bytes(8, "little") in block
    done = sensor("evidence", "conversation", NUMBER, "-o", tmp_path / "one.txt", "--evidence", tmp_path)
    assert done.code == 2


def test_a_hold_keeps_the_conversation(tmp_path: Path) -> None:
    """Evidence is held with the packets around it."""
    with stored(tmp_path, note_of()):
        pass
    done = sensor("evidence", "hold", "--rule", 50001, "--reason", "case 17", "--evidence", tmp_path)
    assert done.code == 0, done.err
    [hold] = sensor("evidence", "holds", "--json", "--evidence", tmp_path).objects
    assert [name.removeprefix("202306181200") for name in hold["files"]] == [
        "-context.pcap",
        "-threat.pcap",
        ".pcap",
    ]
