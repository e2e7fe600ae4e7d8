"""Damaged evidence directories: whatever is in files and index, only the named errors are raised.

Undamaged evidence is searched too, and compared with a simple search of all items.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

from evidence_queries import COUNT, holds, random_items, random_query, same

from sensor.config.settings import Settings
from sensor.errors import EvidenceError
from sensor.evidence.block import block_of_objects
from sensor.evidence.conversation_object import conversation_object
from sensor.evidence.conversation_search import ConversationSearch
from sensor.evidence.cursor import CursorError
from sensor.evidence.export import encoded
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.json_object import stored_object
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.verify import verify
from sensor.model import Evidence, Role
from sensor.reindex import reindex
from tests.fuzz.random_captures import damaged
from tests.fuzz.rounds import Round

DIRECTORIES = 12
QUERIES = 40
DEVID = 3
_RULES = Path(__file__).parents[1] / "corpus" / "faulty" / "two-rules-of-three"
_NAMES = (
    "202306181200.pcap.temp",
    "202306181200-2.pcap",
    "202306181200-linktype101.pcap",
    "20230618.sqlite-wal",
    "20230618.sqlite-journal",
    "20230619.sqlite.old",
    "99999999.sqlite",
    "202313399999.pcap",
    "notes",
    ".lock",
    ".reload",
)
"""Names that files of the sensor have, or nearly have."""


class Kept(NamedTuple):
    """Evidence as the sensor leaves it."""

    directory: Path
    items: list[Evidence]


@cache
def _kept() -> Kept:
    directory = Path(tempfile.mkdtemp(prefix="sensor-fuzz-evidence-"))
    items = _with_conversations(random_items(COUNT, seed=7))
    with closing(IndexedWriter(directory, DEVID, interface_name=lambda index: f"eth{index}")) as writer:
        writer.write(block_of_objects(items))
    return Kept(directory, items)


def _with_conversations(items: list[Evidence]) -> list[Evidence]:
    """Return the items, each fifth in a conversation of the last match before it."""
    number, found = 0, []
    for at, one in enumerate(sorted(items, key=lambda item: item.timestamp_ns)):
        if one.matches and at % 5 == 0:
            number = one.timestamp_ns // 1000
            found.append(one._replace(conversation=number))
        elif number and not one.matches:
            found.append(one._replace(conversation=number, role=Role.AFTER))
        else:
            found.append(one)
    return found


def fuzz(one: Round) -> None:
    """Search undamaged evidence; then damage copies of it, and use them in every way."""
    kept = _kept()
    _compare_queries(one, kept)
    for number in range(DIRECTORIES):
        directory = one.directory / str(number)
        shutil.copytree(kept.directory, directory)
        done = [_damage(directory / str(DEVID), one.rng) for _ in range(one.rng.choice((1, 1, 2, 4)))]
        text = "\n".join(done)
        for use in one.rng.sample(_USES, len(_USES)):
            with one.no_other_error(EvidenceError, CursorError, damage_txt=f"{text}\n{use.__name__}"):
                use(directory, kept, one.rng)
            one.comparisons += 1
        shutil.rmtree(directory)


def _compare_queries(one: Round, kept: Kept) -> None:
    times_us = [item.timestamp_ns // 1000 for item in kept.items]
    search = EvidenceSearch(kept.directory)
    for _ in range(QUERIES):
        query = random_query(one.rng, times_us)
        expected = sorted(
            (item for item in kept.items if holds(query, item)), key=lambda item: item.timestamp_ns // 1000
        )
        found = list(search.iterate(query))
        one.comparisons += len(kept.items)
        if len(found) != len(expected) or not all(map(_is_among, found, [expected] * len(found))):
            one.fault(f"{len(found)} items instead of {len(expected)}: {query}")


def _is_among(stored: object, items: list[Evidence]) -> bool:
    return any(same(stored, item) for item in items)


def _damage(directory: Path, rng: random.Random) -> str:
    """Damage a file, or put something in its place; return what was done."""
    path = rng.choice(
        sorted(path for path in directory.iterdir() if path.is_file() and not path.is_symlink())
    )
    match rng.randrange(12):
        case 0:
            path.unlink()
            return f"removed {path.name}"
        case 1:
            path.write_bytes(content := rng.randbytes(rng.choice((0, 1, 24, 100, 9000))))
            return f"{path.name} is {len(content)} random bytes"
        case 2:
            path.unlink()
            path.mkdir()
            return f"{path.name} is a directory"
        case 3:
            other = directory / rng.choice(_NAMES)
            if not other.exists():
                other.write_bytes(rng.choice((path.read_bytes(), b"", rng.randbytes(100))))
            return f"added {other.name} like {path.name}"
        case 4:
            other = rng.choice(sorted(directory.iterdir()))
            path.rename(path.with_name("swapped"))
            if other != path:
                other.rename(path)
                path.with_name("swapped").rename(other)
            return f"swapped {path.name} and {other.name}"
        case 5:
            path.unlink()
            path.symlink_to(rng.choice(("nowhere", path.name, ".", "notes")))
            return f"{path.name} is a link"
        case 6 if path.suffix == ".sqlite":
            return _damage_rows(path, rng)
        case _:
            content, place = damaged(path.read_bytes() or b"x", rng)
            path.write_bytes(content)
            return f"damaged {path.name} at byte {place}"


def _damage_rows(path: Path, rng: random.Random) -> str:
    """Change values in a table of an index to some that no sensor writes."""
    values = (None, -1, 0, 1 << 40, (1 << 63) - 1, "x", "1,2,x", b"\xff", 1.5, "[]", "{}", "\ud7ff")
    value, every, what = rng.choice(values), rng.choice((1, 7)), "nothing"
    try:
        with closing(sqlite3.connect(path)) as connection, connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            table = rng.choice([name for (name,) in found])
            column = rng.choice([row[1] for row in connection.execute(f"PRAGMA table_info({table})")])
            what = f"{table}.{column}"
            connection.execute(
                f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid % ? = 0", (value, every)
            )
    except (sqlite3.Error, IndexError) as error:  # IndexError: there are no tables
        return f"{what} in {path.name} cannot be {value!r}: {error}"
    return f"{what} in {path.name} is {value!r}"


def _search(directory: Path, kept: Kept, rng: random.Random) -> None:
    search = EvidenceSearch(directory)
    query = random_query(rng, [item.timestamp_ns // 1000 for item in kept.items])
    cursor = None
    for _ in range(50):
        page = search.search(query, rng.choice((1, 20, 500)), cursor)
        for stored, matches in zip(page.items, search.matches(page.items), strict=True):
            stored_object(stored, matches)
        cursor = page.cursor
        if cursor is None:
            break


def _look_up(directory: Path, kept: Kept, rng: random.Random) -> None:
    search = EvidenceSearch(directory)
    found = search.lookup(rng.choice(kept.items).timestamp_ns // 1000)
    for stored in found:
        assert search.get(stored.key) is not None
        list(search.flow(stored))
        search.record(stored)
    search.status()


def _histogram(directory: Path, kept: Kept, rng: random.Random) -> None:
    first, last = (item.timestamp_ns // 1000 for item in (kept.items[0], kept.items[-1]))
    EvidenceSearch(directory).histogram(Query(), first, last, rng.choice((1, 60, 500)))


def _conversations(directory: Path, kept: Kept, rng: random.Random) -> None:
    search = ConversationSearch(directory)
    for conversation in search.page(Query(), rng.choice((1, 20))).conversations:
        assert conversation_object(conversation)["conversation"] == conversation.number
        assert len(list(conversation.places())) == len(conversation.packets)
    search.find(str(rng.choice(kept.items).conversation))


def _export(directory: Path, _: Kept, rng: random.Random) -> None:
    items = EvidenceSearch(directory).iterate(Query())
    for _chunk in encoded(items, rng.choice(("pcap", "pcapng"))):
        pass


def _verify(directory: Path, _: Kept, __: random.Random) -> None:
    list(verify(directory / str(DEVID), DEVID))


def _write(directory: Path, kept: Kept, rng: random.Random) -> None:
    """Start a writer, which repairs what it can, and write more evidence."""
    chosen = rng.sample(kept.items, 20)
    with closing(IndexedWriter(directory, DEVID)) as writer:
        writer.reconcile()
        writer.write(block_of_objects(chosen))
        writer.tick(0)
        written = writer.written + writer.context_written
        assert written + writer.write_failed + writer.context_failed == len(chosen)


def _reindex(directory: Path, _: Kept, __: random.Random) -> None:
    reindex(Settings(evidence=directory, devid=DEVID, rules=_RULES, lenient=True), lambda _, __: None)


_USES: tuple[Callable[[Path, Kept, random.Random], None], ...] = (
    _search,
    _look_up,
    _histogram,
    _conversations,
    _export,
    _verify,
    _write,
    _reindex,
)
