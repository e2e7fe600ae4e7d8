"""Evidence and index are written by two processes: their steps in any order give a complete index.

Here both are objects of one process, whose steps a seeded generator interleaves.
"""

from __future__ import annotations

import random
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from evidence_samples import DEVID, NOON_S, NS, item

from sensor.config.settings import Settings
from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.device_directory import DeviceDirectory
from sensor.evidence.file_name import WINDOW_S
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.reconcile import Gaps, compare, fill, reconcile
from sensor.evidence.search import EvidenceSearch, Query, Stored
from sensor.evidence.verify import verify
from sensor.evidence.writer import EvidenceWriter
from sensor.reindex import Rematcher

STEPS = 150
Message = Callable[[IndexWriter], object]


class Channel:
    """The messages from the evidence writer to the index; the channel can be full."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.deleted: dict[str, int | None] = {}
        """Deleted files that the index may not know of, with the number of the message about them."""
        self.sent = 0
        self.is_full = False
        self._has_missed = False

    def add(self, name: str, offset: int, block: EvidenceBlock) -> None:
        """Send rows."""
        self.send_deleted()
        self._send(lambda index: index.add(name, offset, block))

    def finish(self, name: str, end: int) -> None:
        """Send the end of a file."""
        self._send(lambda index: index.finish(name, end))

    def forget(self, name: str) -> None:
        """Send the name of a deleted file."""
        self.deleted[name] = None
        self.send_deleted()

    def send_deleted(self) -> None:
        """Send the names of deleted files that are not on their way."""
        for name in [name for name, number in self.deleted.items() if number is None]:
            if not self.is_full:
                self.deleted[name] = self.sent
                self._send(partial(self._forget, name, self.sent))

    def _forget(self, name: str, number: int, index: IndexWriter) -> None:
        index.forget([name])
        if self.deleted.get(name) == number:
            del self.deleted[name]

    def tick(self) -> None:
        """Say that messages are missing."""
        self.send_deleted()
        if self._has_missed and not self.is_full:
            self._has_missed = False
            self._send(_note_missing)

    def _send(self, message: Message) -> None:
        if self.is_full:
            self._has_missed = True
        else:
            self.messages.append(message)
            self.sent += 1


def _note_missing(index: IndexWriter) -> None:
    index.is_behind = True


class World:
    """Both sides, and what can happen to them."""

    def __init__(self, directory: Path, rng: random.Random, rematcher: Rematcher) -> None:
        self._rng, self._rematcher = rng, rematcher
        self.device = DeviceDirectory(directory, DEVID)
        self.channel = Channel()
        self.writer = EvidenceWriter(self.device.path, self.channel)
        self.index = IndexWriter(self.device.path, lambda number: f"eth{number}")
        self.gaps: Gaps = []
        """All gaps that were found."""
        self._received = 0
        self._steps: Iterator[None] | None = None
        self._awaited = 0
        self._numbers = 0

    def write(self) -> None:
        """Write some items, sometimes late ones."""
        count, window = self._rng.randint(1, 5), self._rng.randrange(4)
        time_ns = (NOON_S + window * WINDOW_S) * NS
        numbers = range(self._numbers, self._numbers + count)
        self._numbers += count
        self.writer.write(block_of_objects([item(number, time_ns + number) for number in numbers]))

    def finish_files(self) -> None:
        """Let some windows end."""
        self.writer.tick((NOON_S + self._rng.randint(1, 5) * WINDOW_S) * NS)

    def delete_file(self) -> None:
        """Delete the oldest finished file, as retention does."""
        for path in sorted(self.device.path.glob("*.pcap"))[:1]:
            path.unlink()
            self.channel.forget(path.name)

    def receive(self, most: int = 3) -> None:
        """Let the index handle some messages."""
        while self.channel.messages and most:
            self.channel.messages.popleft()(self.index)
            self._received += 1
            most -= 1

    def commit(self) -> None:
        """Commit the rows."""
        self.index.commit()

    def compare(self) -> None:
        """Do a step of a comparison."""
        if self._steps is None and self.index.is_behind:
            self._steps = compare(self.index)
            self._awaited = 0
        if self._steps is None or self._received < self._awaited:
            return
        try:
            next(self._steps)
            self._awaited = self._awaited or self.channel.sent
        except StopIteration as end:
            self._steps = None
            self._fill(end.value)

    def _fill(self, gaps: Gaps) -> None:
        self.gaps += gaps
        assert all(fill(self.index, *part) for part in self._rematcher.parts(self.device.path, gaps))

    def toggle_full(self) -> None:
        """Let the channel be full for a while."""
        self.channel.is_full = not self.channel.is_full
        self.channel.tick()

    def kill_index(self) -> None:
        """Kill the process that writes the index, with all it was sent, and start another one."""
        self._steps = None
        for database in self.index._databases.values():
            database.abandon()
        self.index._databases.clear()
        self.index._waiting.clear()
        self.index.close()
        self._received += len(self.channel.messages)
        self.channel.messages.clear()
        self.channel.deleted = dict.fromkeys(self.channel.deleted)
        self.channel.send_deleted()
        self.index = IndexWriter(self.device.path, lambda number: f"eth{number}")

    def complete(self) -> None:
        """End all pieces of work."""
        self.channel.is_full = False
        self.writer.close()
        self.channel.tick()
        self.receive(most=-1)
        self.commit()
        while self._steps:
            self.compare()
        for _ in range(3):
            if self.index.is_behind:
                self._fill(reconcile(self.index))
        assert not self.index.is_behind
        self.index.close()
        self.device.close()


def stored(directory: Path) -> list[Stored]:
    """Return all items of the index."""
    return list(EvidenceSearch(directory).iterate(Query()))


@pytest.fixture(scope="module")
def rematcher(few_rules: Path) -> Rematcher:
    """Return the object that matches the records of gaps."""
    return Rematcher(Settings(rules=few_rules))


@pytest.mark.parametrize("seed", range(40))
def test_no_row_is_lost_in_a_race(tmp_path: Path, seed: int, rematcher: Rematcher) -> None:
    """As long as every message arrives, no comparison finds a gap, and no row is built from a file."""
    rng = random.Random(seed)
    world = World(tmp_path, rng, rematcher)
    actions = [world.write, world.receive, world.compare, world.finish_files, world.commit, world.delete_file]
    for _ in range(STEPS):
        if rng.random() < 0.1:
            world.index.is_behind = True
        [action] = rng.choices(actions, [6, 4, 4, 2, 2, 1])
        action()
    world.complete()
    assert world.gaps == []
    assert {one.interface for one in stored(tmp_path)} <= {"eth1"}
    assert [one.fault for one in verify(world.device.path, DEVID) if one.fault] == []


@pytest.mark.parametrize("seed", range(40))
def test_lost_messages_heal(tmp_path: Path, seed: int, rematcher: Rematcher) -> None:
    """If messages are lost, or the index is killed with all it was sent, it is completed from the files."""
    rng = random.Random(seed)
    world = World(tmp_path, rng, rematcher)
    actions = [world.write, world.receive, world.compare, world.finish_files, world.commit, world.delete_file]
    actions += [world.toggle_full, world.kill_index]
    for _ in range(STEPS):
        [action] = rng.choices(actions, [8, 8, 8, 4, 4, 1, 1, 1])
        action()
    world.complete()
    assert [one.fault for one in verify(world.device.path, DEVID) if one.fault] == []


@pytest.fixture
def quiet(tmp_path: Path, rematcher: Rematcher) -> Iterator[World]:
    """Provide both sides with two finished files of two days, whose rows are committed."""
    world = World(tmp_path, random.Random(1), rematcher)
    with closing(world.index), closing(world.device):
        for number, time_s in enumerate((NOON_S, NOON_S + 86_400)):
            world.writer.write(block_of_objects([item(number, time_s * NS)]))
        world.writer.close()
        world.receive(most=-1)
        world.commit()
        yield world


def test_a_file_between_two_names_is_not_gone(tmp_path: Path, quiet: World) -> None:
    """A file that is opened again while the directory is listed may be in the list under neither name."""
    path = min(quiet.device.path.glob("*.pcap"))
    hidden = path.rename(tmp_path / "hidden")
    steps = compare(quiet.index)
    next(steps)
    hidden.rename(path)
    assert list(steps)
    assert len(stored(tmp_path)) == 2


def test_rows_that_wait_are_no_gap(tmp_path: Path, quiet: World) -> None:
    """A database that was locked when rows should be committed is not compared with their file."""
    quiet.writer.write(block_of_objects([item(2, (NOON_S + 86_400) * NS)]))
    quiet.writer.close()
    quiet.receive(most=-1)
    with closing(sqlite3.connect(quiet.device.path / "20230619.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        steps = compare(quiet.index)
        next(steps)
        next(steps)
        assert quiet.index.waiting_files == {"202306191200.pcap"}
        other.execute("ROLLBACK")
        assert list(steps)
    quiet.commit()
    assert {one.interface for one in stored(tmp_path)} == {"eth1"}
    assert len(stored(tmp_path)) == 3


def test_an_end_that_is_not_reached_is_noticed(tmp_path: Path, quiet: World) -> None:
    """If the last rows of a file are lost with the process, its end tells the next one."""
    late = (NOON_S + WINDOW_S) * NS
    quiet.writer.write(block_of_objects([item(2, late)]))
    quiet.receive(most=-1)
    quiet.commit()
    quiet.writer.write(block_of_objects([item(3, late)]))
    quiet.kill_index()
    assert reconcile(quiet.index) == []  # the file is still open
    assert not quiet.index.is_behind
    quiet.writer.close()
    quiet.receive(most=-1)
    assert quiet.index.is_behind
    assert len(reconcile(quiet.index)) == 1
    assert len(stored(tmp_path)) == 3
