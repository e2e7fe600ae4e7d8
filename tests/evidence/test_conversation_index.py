"""Roles and conversations in the index: stored with the rows, sent to the indexer, and kept by a rebuild."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from evidence_samples import DEVID, NOON_S, NS, item, writing
from indexing import indexing

from sensor.config.settings import Settings
from sensor.evidence.block import block_of_objects
from sensor.evidence.conversation import CONVERSATION_MAX, ConversationNote, Ending, Missing
from sensor.evidence.conversation_codec import note_of_row, note_row, pack_note, unpack_note
from sensor.evidence.index_connection import DamagedRowError
from sensor.evidence.message import MalformedMessageError
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.verify import verify
from sensor.evidence.writer import EvidenceWriter
from sensor.live import indexer_process
from sensor.model import Evidence, FiveTuple, Match, Role, Rule

RULE = Rule(1, "threat", "T", "Threat", "x")
CONVERSATION = NOON_S * 1_000_000 + 2
FOUR = FiveTuple(17, b"\x00\x00\x0a\x01", 12345, b"\x00\x00\x00\x0a", 9)
NOTES = [
    ConversationNote(CONVERSATION, FOUR, (7, 0x2008), Ending.RST, Missing.LOST | Missing.SPACE, 12, 40),
    ConversationNote(CONVERSATION + 1, FOUR, ()),
    ConversationNote(CONVERSATION_MAX, FiveTuple(6, bytes(16), 1, bytes(range(16)), 2), (5,), Ending.FIN),
]


def items() -> list[Evidence]:
    """Return a match with context around it, and two packets of no conversation."""
    found = [item(number, NOON_S * NS + number * 1000) for number in range(6)]
    for number, role in ((1, Role.BEFORE), (2, Role.HIT), (3, Role.AFTER), (4, Role.AFTER)):
        found[number] = found[number]._replace(role=role, conversation=CONVERSATION)
    found[2] = found[2]._replace(matches=(Match(RULE, 0, 1),))
    return found


EXPECTED = [
    (0, "202306181200.pcap", Role.HIT, None),
    (1, "202306181200-context.pcap", Role.BEFORE, CONVERSATION),
    (2, "202306181200-threat.pcap", Role.HIT, CONVERSATION),
    (3, "202306181200-context.pcap", Role.AFTER, CONVERSATION),
    (4, "202306181200-context.pcap", Role.AFTER, CONVERSATION),
    (5, "202306181200.pcap", Role.HIT, None),
]


def found(evidence: Path) -> list[tuple[int, str, Role, int | None]]:
    """Return what the index knows of the items."""
    return [
        (one.time_us - NOON_S * 1_000_000, one.path.name, one.role, one.conversation)
        for one in EvidenceSearch(evidence).iterate(Query())
    ]


def notes(evidence: Path, day: str = "20230618") -> list[ConversationNote]:
    """Return the notes in a database."""
    with closing(sqlite3.connect(evidence / str(DEVID) / f"{day}.sqlite")) as database:
        rows = database.execute("SELECT * FROM conversation ORDER BY conversation")
        return [note_of_row(row) for row in rows]


def write(writer: EvidenceWriter) -> None:
    """Write the items and notes, one of which is replaced."""
    writer.index.note(NOTES[0]._replace(ended=Ending.OPEN))
    writer.write(block_of_objects(items()))
    writer.index.note(NOTES[0])
    writer.index.note(NOTES[1])


def test_the_index_has_roles_and_conversations(tmp_path: Path) -> None:
    """A later note replaces the one before; rows without conversation are in no index of conversations."""
    with writing(tmp_path) as writer:
        write(writer)
        writer.tick(NOON_S * NS)
        assert notes(tmp_path) == NOTES[:2]
        writer.index.note(NOTES[1]._replace(ended=Ending.SILENCE))
    assert found(tmp_path) == EXPECTED
    assert notes(tmp_path) == [NOTES[0], NOTES[1]._replace(ended=Ending.SILENCE)]
    assert not [fault for _, _, fault in verify(tmp_path / str(DEVID), DEVID) if fault]


def test_a_conversation_that_was_open_is_interrupted(tmp_path: Path) -> None:
    """The next run knows nothing of conversations that the one before did not end."""
    with writing(tmp_path) as writer:
        write(writer)
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(9, NOON_S * NS + 9000)]))
        writer.index.note(NOTES[1]._replace(conversation=CONVERSATION + 9))
    assert [note.ended for note in notes(tmp_path)] == [Ending.RST, Ending.INTERRUPTED, Ending.OPEN]


def test_conversations_reach_the_indexer(
    few_rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that writes the index has rows and notes."""
    monkeypatch.setattr(indexer_process, "MOST_SILENT_TICKS", 1_000_000)  # they follow quickly
    settings = Settings(rules=few_rules, evidence=tmp_path, retain_free_percent=0)
    with indexing(settings) as live:
        write(live.writer)
        live.tick_until_complete()
        live.tick_until(lambda: len(notes(tmp_path)) == 2)
    assert found(tmp_path) == EXPECTED
    assert notes(tmp_path) == NOTES[:2]


def test_notes_outlive_the_indexer(few_rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed with notes that it has not stored has a successor that gets them."""
    monkeypatch.setattr(indexer_process, "MOST_SILENT_TICKS", 1_000_000)
    monkeypatch.setattr(indexer_process, "BACKOFF_S", 0.0)
    settings = Settings(rules=few_rules, evidence=tmp_path, retain_free_percent=0)
    with indexing(settings) as live:
        stopped = live.signal(signal.SIGSTOP)
        write(live.writer)
        live.signal(signal.SIGKILL)
        live.tick_until(lambda: live.indexer.pid != stopped)
    assert notes(tmp_path) == NOTES[:2]


def test_verify_compares_roles(tmp_path: Path) -> None:
    """A row that says another role than the file has a fault."""
    with writing(tmp_path) as writer:
        write(writer)
    with closing(sqlite3.connect(tmp_path / str(DEVID) / "20230618.sqlite")) as database, database:
        database.execute("UPDATE evidence SET role = 0 WHERE role = 1")
    [fault] = [fault for _, _, fault in verify(tmp_path / str(DEVID), DEVID) if fault]
    assert fault == "has a packet at byte 24 that differs from the index"


def test_damaged_roles_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A role that does not exist is reported as damage, and hides nothing silently."""
    with writing(tmp_path) as writer:
        write(writer)
    with closing(sqlite3.connect(tmp_path / str(DEVID) / "20230618.sqlite")) as database, database:
        database.execute("UPDATE evidence SET role = 7 WHERE role = 1")
    found(tmp_path)
    assert "a row is damaged" in caplog.text


@pytest.mark.parametrize("note", NOTES, ids=str)
def test_notes_come_back(note: ConversationNote) -> None:
    """A note survives as a record and as a row."""
    assert unpack_note(pack_note(note)) == note
    assert note_of_row(note_row(note)) == note


@pytest.mark.parametrize(
    "change",
    [
        {"conversation": 0},
        {"conversation": CONVERSATION_MAX + 1},
        {"ended": 6},
        {"missing": 64},
        {"lost": 1 << 63},
        {"five_tuple": FOUR._replace(source=bytes(5))},
    ],
    ids=str,
)
def test_notes_that_cannot_be(change: dict[str, object]) -> None:
    """They are refused, wherever they come from."""
    note = NOTES[0]._replace(**change)
    with pytest.raises(MalformedMessageError):
        unpack_note(pack_note(note))
    with pytest.raises(DamagedRowError):
        note_of_row(note_row(note))
    with pytest.raises(MalformedMessageError):
        unpack_note(pack_note(NOTES[0])[:-1])
