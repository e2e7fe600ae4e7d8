"""A rebuilt index has the roles and conversations that the files show: the same as before."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conversation_samples import (
    ACK,
    MIDNIGHT_US,
    PSH,
    REQUEST,
    RULE,
    STEP_US,
    STEPS,
    Step,
    conversation,
    note_of,
    number_at,
)
from evidence_samples import DEVID, NOON_S, item, writing

from sensor.config.settings import Settings
from sensor.evidence.block import block_of_objects
from sensor.evidence.conversation import Ending
from sensor.evidence.conversation_search import ConversationSearch
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.verify import verify
from sensor.model import Role
from sensor.reindex import reindex
from tests.reindexing import Reindexing

START_US = NOON_S * 1_000_000
SECOND_US = 1_000_000
Place = tuple[int, str, int]
"""Time, file and offset of a packet."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with the rules of the samples."""
    rules = tmp_path / "rules"
    rules.mkdir()
    threat = {"type": RULE.type, "name": RULE.name, "regex": RULE.regex}
    service = {"type": "Web", "name": "Apache", "regex": "Apache"}
    (rules / "threat.json").write_text(json.dumps({"threat": {"rules": {"50001": threat}}}))
    (rules / "service.json").write_text(json.dumps({"service": {"rules": {"21": service}}}))
    return Settings(rules=rules, evidence=tmp_path / "evidence", devid=DEVID, retain_free_percent=0)


def indexed(evidence: Path) -> dict[Place, tuple[Role, int | None, list[int]]]:
    """Return what the index knows of each packet."""
    return {
        (one.time_us, one.path.name, one.offset): (
            one.role,
            one.conversation,
            [rule.rule_id for rule in one.rules],
        )
        for one in EvidenceSearch(evidence).iterate(Query())
    }


def write(evidence: Path) -> None:
    """Write conversations of every kind, and packets beside them."""
    hit: Step = (True, PSH | ACK, REQUEST, Role.HIT, (0,))
    answer: Step = (False, ACK, b"no", Role.AFTER, ())
    before: Step = (True, ACK, b"early", Role.BEFORE, ())
    with writing(evidence) as writer:
        for number in range(40):  # at the same time, from other ports
            block = conversation(START_US, sport=40000 + number)
            block.items["conversation"] += number
            writer.write(block)
        writer.write(conversation(MIDNIGHT_US - 2 * STEP_US, sport=50000))
        writer.write(conversation(MIDNIGHT_US - 5 * STEP_US, sport=50001))
        writer.write(conversation(START_US + 300 * SECOND_US, sport=50002))
        writer.write(conversation(START_US + 500 * SECOND_US, sport=50002))  # the same flow again
        late = conversation(START_US + 900 * SECOND_US, [hit, answer, hit, answer], sport=50003)
        late.items["conversation"] = START_US + 900 * SECOND_US
        writer.write(late)
        old = conversation(START_US + 1000 * SECOND_US, [before], sport=50004)
        old.items["conversation"] = START_US + 4000 * SECOND_US
        writer.write(old)
        match = conversation(START_US + 4000 * SECOND_US, [hit], sport=50004)
        match.items["conversation"] = START_US + 4000 * SECOND_US
        writer.write(match)
        alone = conversation(START_US + 5000 * SECOND_US, [hit], sport=50005, is_numbered=False)
        writer.write(alone)  # nothing was kept around it
        writer.write(block_of_objects([item(1)]))
        writer.index.note(note_of())


def test_reindex_finds_conversations_again(settings: Settings) -> None:
    """Roles, numbers and matches are those of before; what was known beside the packets is lost."""
    write(settings.evidence)
    before = indexed(settings.evidence)
    assert len({number for _, number, _ in before.values()}) == 40 + 2 + 2 + 1 + 1 + 1
    assert ConversationSearch(settings.evidence).find(str(number_at(START_US)))[0].is_complete
    reindex(settings, lambda _done, _total: None)
    assert indexed(settings.evidence) == before
    [again] = ConversationSearch(settings.evidence).find(str(number_at(START_US)))
    assert (again.is_complete, again.ended) == (None, Ending.FIN)
    assert [one.role for one in again.packets] == [role for *_, role, _ in STEPS]
    assert not [fault for _, _, fault in verify(settings.evidence / str(DEVID), DEVID) if fault]


def test_a_removed_index_is_completed_while_capture_runs(settings: Settings) -> None:
    """The indexer does the same in small steps, beside new rows."""
    write(settings.evidence)
    before = indexed(settings.evidence)
    for path in (settings.evidence / str(DEVID)).glob("*.sqlite*"):
        path.unlink()
    with writing(settings.evidence) as writer, closing(Reindexing(settings, writer)) as reindexing:
        reindexing.tick_until(lambda: not (writer.index.is_behind or reindexing.reindexer.is_busy))
    assert indexed(settings.evidence) == before


@pytest.mark.parametrize("missing", ["threat", "context", ""], ids=["threat", "context", "other"])
def test_rows_that_were_missed_join_their_conversation(settings: Settings, missing: str) -> None:
    """The rows of one file are built again; those of the others still know the conversation."""
    with writing(settings.evidence) as writer:
        writer.write(conversation(START_US))
        writer.write(conversation(START_US + STEP_US, [STEPS[3]], sport=40007, is_numbered=False))
        writer.index.note(note_of())
    before = indexed(settings.evidence)
    name = f"202306181200{'-' * bool(missing)}{missing}.pcap"
    with closing(sqlite3.connect(settings.evidence / str(DEVID) / "20230618.sqlite")) as index, index:
        [[file]] = index.execute("SELECT file FROM file WHERE name = ?", [name])
        for table in ("hit WHERE id IN (SELECT id FROM evidence WHERE file = ?)", "evidence WHERE file = ?"):
            index.execute(f"DELETE FROM {table}", [file])
        index.execute("INSERT INTO gap SELECT file, 24, end FROM file WHERE file = ?", [file])
    assert len(indexed(settings.evidence)) < len(before)
    with writing(settings.evidence) as writer, closing(Reindexing(settings, writer)) as reindexing:
        reindexing.tick_until(lambda: not (writer.index.is_behind or reindexing.reindexer.is_busy))
    assert indexed(settings.evidence) == before
    [found] = ConversationSearch(settings.evidence).find(str(number_at(START_US)))
    assert found.is_complete


def test_context_alone_waits_for_nothing(settings: Settings) -> None:
    """Context whose matches are gone is in no conversation, and is not looked at again."""
    with writing(settings.evidence) as writer:
        writer.write(conversation(START_US, [STEPS[0]]))
        writer.write(conversation(START_US, [STEPS[1]], sport=40001))
    reindex(settings, lambda _done, _total: None)
    assert list(indexed(settings.evidence).values()) == [(Role.BEFORE, None, [])] * 2


def test_fragments_are_of_the_nearest_conversation(settings: Settings) -> None:
    """Later fragments have no ports; they are given to a conversation between the same addresses."""
    with writing(settings.evidence) as writer:
        for sport, start_us in ((40000, START_US), (40001, START_US + 10 * SECOND_US)):
            block = conversation(start_us, sport=sport)
            writer.write(block)
            fragment = conversation(start_us + 9 * STEP_US, [STEPS[5]], sport=sport)
            fragment.items["conversation"] = number_at(start_us)
            frame = fragment.records[16:]
            frame[14 + 6 : 14 + 8] = [0x00, 0x40]  # a fragment at 512
            fragment.items["sport"] = fragment.items["dport"] = 0
            writer.write(fragment)
    before = indexed(settings.evidence)
    reindex(settings, lambda _done, _total: None)
    assert indexed(settings.evidence) == before
