"""A reindexer that was taken over: it loses its life, and the index gets no row without a record."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from processes import is_running
from reindexing import Reindexing

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.config.settings import Settings
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.message import pack
from sensor.evidence.pcap import RecordReader
from sensor.evidence.reconcile import Gaps
from sensor.evidence.rule_codec import encode_rules
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.verify import verify
from sensor.files.capture_file import CaptureFile
from sensor.live import reindex_launcher, reindexer
from sensor.live.reindex_channel import ReindexKind, encode_gaps
from sensor.pipeline import Pipeline
from sensor.reindex import Rematcher
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_rules

DEVID = 3
Change = Callable[[EvidenceBlock], EvidenceBlock | None]


class Prepared(NamedTuple):
    """The start of all tests."""

    settings: Settings
    rematcher: Rematcher


@pytest.fixture(scope="module")
def prepared(few_rules: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Provide evidence of the demo traffic that has no index, and what an honest process works with."""
    directory = tmp_path_factory.mktemp("prepared")
    settings = Settings(rules=few_rules, evidence=directory / "evidence", retain_free_percent=0)
    write_capture(directory / "capture.pcap", mix.demo(seed=1).frames)
    pipeline = Pipeline(Matcher(load_rules(few_rules)), "any", live=False)
    with (
        closing(IndexedWriter(settings.evidence, DEVID)) as writer,
        CaptureFile(directory / "capture.pcap") as capture,
    ):
        for batch in capture.batches():
            writer.write(pipeline.process(batch))
        writer.index.delete()
    return Prepared(settings, Rematcher(settings))


@pytest.fixture
def settings(prepared: Prepared, tmp_path: Path) -> Settings:
    """Return settings with a copy of the evidence."""
    shutil.copytree(prepared.settings.evidence, tmp_path / "evidence")
    return prepared.settings.model_copy(update={"evidence": tmp_path / "evidence"})


@pytest.fixture
def writer(settings: Settings) -> Iterator[IndexedWriter]:
    """Provide a writer for the evidence."""
    with closing(IndexedWriter(settings.evidence, DEVID)) as writer:
        yield writer


class Attacker:
    """Stands for the reindexer: reads the gaps, sends prepared bytes, and then hangs."""

    def __init__(self, rematcher: Rematcher, writer: IndexedWriter, path: Path) -> None:
        self._path, self._writer = path, writer
        self._rematcher = rematcher
        self.rules = joined(ReindexKind.DIGEST, rematcher.rules.digest.encode())
        self.rules += joined(ReindexKind.RULES, encode_rules(list(rematcher.rules)))
        self.pids: list[int] = []
        self.hangs = True
        self.messages: Callable[[Gaps], bytes] = lambda _gaps: b""
        """Returns the bytes to send; each test sets it."""

    def execute(self, _task: bytes, channel: int) -> subprocess.Popen[bytes]:
        """Start it."""
        gaps = self._writer.reconcile()
        self._path.write_bytes(self.messages(gaps))
        size = len(joined(ReindexKind.GAPS, encode_gaps(gaps)))
        program = f"head -c {size} <&{channel} >/dev/null; cat {self._path} >&{channel}"
        program += "; exec sleep 100" if self.hangs else ""
        process = subprocess.Popen(["bash", "-c", program], pass_fds=[channel])
        self.pids.append(process.pid)
        return process

    def first_block(self, gaps: Gaps) -> EvidenceBlock:
        """Return what an honest process would send first."""
        return next(self._rematcher.parts(self._writer.directory, gaps)).block


@pytest.fixture
def attacker(
    prepared: Prepared, writer: IndexedWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Attacker:
    """Provide an attacker in the place of the process."""
    attacker = Attacker(prepared.rematcher, writer, tmp_path / "sent")
    monkeypatch.setattr(reindex_launcher, "_execute", attacker.execute)
    return attacker


def joined(kind: ReindexKind, text: bytes = b"") -> bytes:
    """Return a message without a block."""
    return b"".join(pack(kind, text))


def rows(block: EvidenceBlock) -> bytes:
    """Return a message with rows."""
    return b"".join(pack(ReindexKind.ROWS, block=block, with_records=False))


def attack(settings: Settings, writer: IndexedWriter) -> None:
    """Work until the reindexer has lost its life or is done; nobody ever waits for it."""
    writer.index.is_behind = True
    with closing(Reindexing(settings, writer)) as reindexing:
        reindexing.tick_until(lambda: reindexing.reindexer.wanted)
        reindexing.tick_until(lambda: not reindexing.reindexer.is_busy)
        reindexing.tick()
        assert reindexing.pid is None


def stored(settings: Settings) -> int:
    """Return the number of items in the index."""
    return len(list(EvidenceSearch(settings.evidence).iterate(Query())))


def changed(field: str, position: int, value: int) -> Change:
    """Return a function that sets a field of an item."""

    def change(block: EvidenceBlock) -> EvidenceBlock:
        items = block.items.copy()
        items[field][position] = value
        return replace(block, items=items)

    return change


def without_first(block: EvidenceBlock) -> EvidenceBlock:
    """Leave out the first item: all others get the offset of another record."""
    return block.part(1, len(block))


def swapped(block: EvidenceBlock) -> EvidenceBlock:
    """Exchange the first two items."""
    return replace(block, items=block.items[[1, 0, *range(2, len(block))]])


def with_unknown_rule(block: EvidenceBlock) -> EvidenceBlock:
    """Let the last match refer to a rule that does not exist."""
    return replace(block, rules=np.append(block.rules[:-1], np.uint32(1 << 20)).astype(np.uint32))


def repeated(block: EvidenceBlock) -> EvidenceBlock:
    """Return more items than the gap has records."""
    return replace(block, items=np.tile(block.items, 40))


@pytest.mark.parametrize(
    "change",
    [
        changed("time_ns", 0, 1),
        changed("time_ns", 3, 1_700_000_000_000_000_000),
        changed("caplen", 0, 0),
        changed("caplen", 2, (1 << 32) - 1),
        changed("wirelen", 1, 7),
        changed("record", 1, 0),
        changed("linktype", 1, 101),
        changed("interface", 1, 7),
        changed("matches", 0, (1 << 32) - 1),
        changed("first_match", 1, 5000),
        changed("payload_end", 0, (1 << 32) - 1),
        changed("vlan_count", 0, 255),
        without_first,
        swapped,
        with_unknown_rule,
        repeated,
    ],
)
def test_false_rows(
    settings: Settings,
    writer: IndexedWriter,
    attacker: Attacker,
    change: Change,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They differ from the records, so nothing of the message is written."""

    def messages(gaps: Gaps) -> bytes:
        block = change(attacker.first_block(gaps))
        assert block is not None
        return attacker.rules + rows(block)

    attacker.messages = messages
    attack(settings, writer)
    assert "the reindexer sent a malformed message and is killed: " in caplog.text
    assert not any(map(is_running, attacker.pids))
    assert stored(settings) == 0
    assert writer.reconcile()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x80\x04\x95garbage" * 100,
        b"\xff" * 32,
        bytes(32),
        joined(ReindexKind.DONE),
        joined(ReindexKind.SKIP)[:4] + b"\xff" * 28,
        joined(ReindexKind.RULES, b"[]"),
        joined(ReindexKind.DIGEST, b"../../etc/passwd"),
        joined(ReindexKind.DIGEST, b"0" * 64) * 2,
        joined(ReindexKind.DIGEST, b"0" * 64) + joined(ReindexKind.RULES, b'[{"rule_id":1}]'),
        joined(ReindexKind.ROWS),
    ],
    ids=range(10),
)
def test_garbage(
    settings: Settings,
    writer: IndexedWriter,
    attacker: Attacker,
    sent: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The process is killed, and the index is left as it was."""
    attacker.messages = lambda _gaps: sent
    attack(settings, writer)
    assert "the reindexer sent a malformed message and is killed: " in caplog.text
    assert not any(map(is_running, attacker.pids))
    assert stored(settings) == 0


def test_more_rows_than_asked_for(
    settings: Settings, writer: IndexedWriter, attacker: Attacker, caplog: pytest.LogCaptureFixture
) -> None:
    """Once all gaps are done, only the end may follow."""
    attacker.messages = lambda gaps: (len(gaps) + 1) * joined(ReindexKind.SKIP)
    attack(settings, writer)
    assert "malformed message" in caplog.text


@pytest.mark.parametrize("size", [0, 10, 40])
def test_a_process_that_stops_in_the_middle(
    settings: Settings, writer: IndexedWriter, attacker: Attacker, size: int
) -> None:
    """Nobody waits for the rest, and all can end."""
    attacker.messages = lambda _gaps: attacker.rules[:size]
    writer.index.is_behind = True
    with closing(Reindexing(settings, writer)) as reindexing:
        reindexing.tick_until(lambda: attacker.pids)
        for _ in range(20):
            started_s = time.monotonic()
            reindexing.tick()
            assert time.monotonic() - started_s < 0.5
            time.sleep(0.01)
        assert reindexing.reindexer.is_busy
    assert not any(map(is_running, attacker.pids))


def test_random_damage(
    writer: IndexedWriter, attacker: Attacker, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the bytes are, the indexer goes on, and all rows agree with the files."""
    rng = random.Random(16)

    def messages(gaps: Gaps) -> bytes:
        data = bytearray(rows(attacker.first_block(gaps).part(0, 3)))
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return attacker.rules + bytes(data) + joined(ReindexKind.DONE)

    attacker.messages = messages
    attacker.hangs = False
    for _ in range(60):
        attack(settings, writer)
    assert caplog.text.count("trying again in 60 s") == 60
    assert caplog.text.count("malformed message") > 40  # the others ended before their message did
    assert not offsets_without_record(settings)


def offsets_without_record(settings: Settings) -> set[tuple[Path, int]]:
    """Return the places of all rows that have no record."""
    found = {(one.path, one.offset) for one in EvidenceSearch(settings.evidence).iterate(Query())}
    for path in (settings.evidence / str(DEVID)).glob("*.pcap"):
        with path.open("rb") as file:
            found -= {(path, record.offset) for record in RecordReader(file)}
    return found


def test_a_silent_process_is_replaced(
    settings: Settings,
    writer: IndexedWriter,
    attacker: Attacker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is killed after a while, and the log says so."""
    monkeypatch.setattr(reindexer, "SILENCE_S", 0.2)
    attacker.messages = lambda _gaps: b""
    attack(settings, writer)
    assert "the reindexer has sent nothing for 0 s and is killed" in caplog.text
    assert not any(map(is_running, attacker.pids))


def test_an_honest_process_completes_the_index_afterwards(
    settings: Settings, writer: IndexedWriter, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack leaves nothing behind that the next process would trip over."""
    attacker.messages = lambda gaps: attacker.rules + rows(attacker.first_block(gaps)) * 2
    attack(settings, writer)
    assert stored(settings) > 0
    monkeypatch.undo()
    attack(settings, writer)
    assert not writer.reconcile()
    assert not [verdict.fault for verdict in verify(writer.directory, DEVID) if verdict.fault]
