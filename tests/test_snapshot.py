"""The figures that the supervisor shares with the exporter: counted exactly, and writable by nobody else."""

from __future__ import annotations

import faulthandler
import mmap
import os
import pickle
import struct
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pytest

from sensor.counters import Counters
from sensor.events.receiver_state import ReceiverState
from sensor.evidence.batch_report import BatchReport
from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.index_writer import IndexFigures
from sensor.evidence.retention import Deleted
from sensor.metrics.costly_sources import CostlySource
from sensor.metrics.rule_loads import RuleLoads
from sensor.metrics.snapshot import SIZE, Snapshot, SnapshotBoard, SurroundingsFigures
from sensor.metrics.tally import MOST_RULES, OTHER_RULES, Tally
from sensor.model import Evidence, FiveTuple, Match, Rule

NOON_NS = 1_687_089_600_000_000_000
RULES = [
    Rule(1, "threat", "T", "first", "x"),
    Rule(2, "service", "T", "second" * 30, "x"),
    Rule(3, "os", "T", "th\ud800ird", "x"),
]
ADDRESSES = [b"\x0a\0\0\1", bytes(4), b"\x0a\1\0\0", bytes(15) + b"\1", b"\x20\x01" + bytes(14)]


def item(number: int) -> Evidence:
    """Return an item; its address, interface, length and matches depend on the number."""
    source = ADDRESSES[number * number % 5]
    return Evidence(
        frame=bytes(60),
        timestamp_ns=NOON_NS + number,
        wirelen=60 + number,
        linktype=1,
        interface=2 + number % 3,
        five_tuple=FiveTuple(6, source, number, bytes(len(source)), 80),
        vlan=(),
        payload_start=54,
        payload_end=60,
        matches=tuple(Match(rule, 0, 1) for rule in RULES[: number % 4]),
    )


def tally_of(block: EvidenceBlock | None, times: int = 1) -> Tally:
    """Return a tally that has counted a block."""
    tally = Tally({2: "eth2", 3: "eth3"})
    for _ in range(times):
        tally.add(BatchReport(1, 0, 500, 20, 80, 0, block, 3_000_000, 1_000_000, 0.3))
    return tally


def snapshot(**fields: Any) -> Snapshot:
    """Return a snapshot in which nothing is empty."""
    loads = RuleLoads()
    loads.succeeded(0.3)
    defaults: dict[str, Any] = {
        "time_s": 1.5,
        "started_s": 1.0,
        "state": "capturing",
        "counters": Counters(seen=1 << 60, ignored={"not_ip": 3}),
        "tally": tally_of(block_of_objects([item(number) for number in range(60)])).figures(),
        "loads": loads.figures(),
        "digest": "ab",
        "rules": Counter(threat=3),
        "matches": {"written": Counter(threat=3)},
        "suppressed": {"flow": 3, "space": 0},
        "files_finished": 1,
        "writes_fail": True,
        "files_replaced": 0,
        "workers": 2,
        "workers_alive": 1,
        "clock_jumps": 0,
        "ring_fill": {0: 0.5},
        "map_bytes": {"flows": 1},
        "costly_sources": [CostlySource("10.66.66.66", 2.5, 0.25), CostlySource("other", 0.5, 1.0)],
        "index": IndexFigures(1, 2, 3, None, True),
        "index_missing": 4,
        "is_reindexing": False,
        "reindex_remaining": 5,
        "reindex_done": 6,
        "deleted": {"age": Deleted(1, 2)},
        "retention_failures": 0,
        "receivers": [ReceiverState("file:/é", True, 3, 2, 1, 1)],
        "surroundings": SurroundingsFigures(True, None, {"/etc/é.pem": 1.5}),
    }
    return Snapshot(**defaults | fields)


def test_a_snapshot_comes_back() -> None:
    """All figures are the same, with the same types."""
    board = SnapshotBoard()
    reader = board.reader()
    for published in (snapshot(), snapshot(state="draining", receivers=[])):
        board.publish(published)
        assert reader.read() == published
        assert type(reader.read().tally) is type(published.tally)


def test_nothing_published() -> None:
    """There are no figures, rather than figures of 0."""
    with pytest.raises(LookupError, match="published no figures"):
        SnapshotBoard().reader().read()


def test_figures_that_do_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    """The last snapshot stays; the log says so once."""
    board = SnapshotBoard()
    board.publish(snapshot())
    for _ in range(3):
        board.publish(snapshot(digest="x" * SIZE))
    assert board.reader().read() == snapshot(loads=board.reader().read().loads)
    assert caplog.text.count("are not published") == 1


def exit_code_of_fork(board: SnapshotBoard, action: str) -> int:
    """Run an action in a fork of this process; return 0 if it was possible."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if action == "write":
                os.pwrite(board._descriptor, b"\0" * 8, 0)
            elif action == "map":
                mmap.mmap(board._descriptor, SIZE)
            elif action == "truncate":
                os.ftruncate(board._descriptor, 0)
            elif action == "own mapping":
                faulthandler.disable()
                board._memory[:8] = bytes(8)  # the fork does not have it: SIGSEGV
            elif action == "read":
                board.reader().read()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("action", ["write", "map", "truncate", "own mapping"])
def test_no_other_process_can_write(action: str) -> None:
    """Not even a fork that has inherited everything; it can read."""
    board = SnapshotBoard()
    board.publish(snapshot())
    assert exit_code_of_fork(board, action) != 0
    assert exit_code_of_fork(board, "read") == 0
    board.publish(snapshot(workers=7))
    assert board.reader().read().workers == 7


def test_the_reader_cannot_write() -> None:
    """Its mapping is read-only."""
    reader = SnapshotBoard().reader()
    with pytest.raises(TypeError, match=r"readonly|read-only|modify"):
        reader._memory[:1] = b"x"


class Trap:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (3,))


@pytest.mark.parametrize("data", [pickle.dumps(Trap()), b"{}", b"[", b'{"tally":7}', b"\xff"])
def test_other_content_is_an_error(data: bytes) -> None:
    """Nothing but a snapshot is read, and nothing is run."""
    board = SnapshotBoard()
    board._memory[:8] = struct.pack("=II", len(data), zlib.crc32(data))
    board._memory[8 : 8 + len(data)] = data
    with pytest.raises(ValueError, match=r".*"):
        board.reader().read()


def test_the_tally_of_a_block() -> None:
    """Columns give the same totals as counting one item after the other."""
    items = [item(number) for number in range(100)]
    figures = tally_of(block_of_objects(items), times=2).figures()
    assert figures.matched == {
        name: (2 * len(of), 2 * sum(one.wirelen for one in of))
        for name, of in (
            (name, [one for one in items if one.interface == index])
            for index, name in ((2, "eth2"), (3, "eth3"))
        )
    }
    classes = Counter(match.rule.rule_class for one in items for match in one.matches)
    flows = sum(not one.matches for one in items)
    assert figures.matches == {name: 2 * count for name, count in {**classes, "flow": flows}.items()}
    assert dict(figures.rules) == {
        OTHER_RULES: 0,
        ("threat", "1", "first"): 2 * classes["threat"],
        ("service", "2", ("second" * 30)[:80]): 2 * classes["service"],
        ("os", "3", "th?ird"): 2 * classes["os"],
    }
    sources = Counter(one.five_tuple.source_text for one in items)
    assert figures.talkers == {address: 2 * frames for address, frames in sources.items()}
    assert (figures.read, figures.undecodable, figures.unmatched) == ({1: 1000}, {1: 40}, {1: 160})
    assert figures.match_s.cumulative[-1] == ("+Inf", 1000)
    assert figures.batch_s.cumulative[-1] == figures.fill.cumulative[-1] == ("+Inf", 2)


def test_the_tally_of_no_block() -> None:
    """A batch without evidence, and one that was skipped, count only their frames."""
    for block in (None, block_of_objects([])):
        figures = tally_of(block).figures()
        assert (figures.matches, figures.talkers) == ({}, {})
        assert figures.matched == {"eth2": (0, 0), "eth3": (0, 0)}


def test_many_rules() -> None:
    """Beyond `MOST_RULES`, matches are counted together; none is missing."""
    rules = [Rule(number + 1, "os", "T", "N", "x") for number in range(MOST_RULES + 50)]
    block = block_of_objects([item(0)._replace(matches=tuple(Match(rule, 0, 1) for rule in rules))])
    figures = tally_of(block).figures()
    assert len(figures.rules) == MOST_RULES + 1
    assert dict(figures.rules)[OTHER_RULES] == 50
    assert sum(count for _, count in figures.rules) == figures.matches["os"] == MOST_RULES + 50


def test_large_wire_lengths() -> None:
    """Bytes are added in 64 bits."""
    block = block_of_objects([item(0), item(3)])
    block.items["wirelen"] = np.uint32(0xFFFFFFFF)
    assert tally_of(block).figures().matched["eth2"] == (2, 2 * 0xFFFFFFFF)
