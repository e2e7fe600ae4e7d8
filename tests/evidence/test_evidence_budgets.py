"""Threat evidence goes last and context first: no flood, source or rule displaces what is worth more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from evidence_samples import NOON_S, item, names_in, numbers_in, writing
from test_evidence_retention import on_small_disk

from sensor.evidence import stored_files
from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.budgets import DAY_S, Budgets
from sensor.evidence.clock_trust import ClockReading
from sensor.evidence.file_name import FileKind, parse_name
from sensor.evidence.retention import Limits, Retention, Space
from sensor.model import FiveTuple, Match, Role, Rule

PROGRAM = Path(__file__).with_name("evidence_flood.py")
THREAT = Rule(1, "threat", "T", "Threat", "x")
OTHER = Rule(2, "service", "T", "Service", "x")
ITEM_BYTES = 1000
CAPACITY = 100.0 * ITEM_BYTES
NOTHING_OPEN = dict.fromkeys(FileKind, 0)
SHORT = Space(others=CAPACITY, threats=CAPACITY, is_short=True)


def block(count: int, source: bytes, *rules: Rule) -> EvidenceBlock:
    """Return items of 1000 bytes from one source, each with these matches."""
    one = item(caplen=ITEM_BYTES - 16)._replace(
        five_tuple=FiveTuple(17, source, 1, bytes(len(source)), 9),
        matches=tuple(Match(rule, 0, 1) for rule in rules),
    )
    return block_of_objects([one] * count)


def context_of(count: int) -> EvidenceBlock:
    """Return context of 1000 bytes each."""
    return block_of_objects([item(caplen=ITEM_BYTES - 16)._replace(role=Role.AFTER)] * count)


def budgets(space: Space, source: float = 50, rule: float = 50) -> Budgets:
    """Return budgets with this report about the space."""
    made = Budgets(source, rule, lambda: NOTHING_OPEN)
    made.update(space, 0)
    return made


def admitted(made: Budgets, one: EvidenceBlock, times: int = 1) -> int:
    """Return how many items are admitted when a block arrives several times."""
    return sum(len(made.admit(one)) for _ in range(times))


def test_a_flood_displaces_no_threats(tmp_path: Path) -> None:
    """On a disk of 48 MiB, 56 MB of harmless evidence in one window leave all threats, and no write fails."""
    result = on_small_disk(tmp_path / "disk", "48m", program=PROGRAM)
    files = result["files"]
    assert sum(files[name] for name in files if "threat" in name) == result["threats"] == 4000
    assert result["write_failed"] == 0
    assert result["suppressed"]["space"] > 0
    assert result["deleted"]["free"][0] > 0
    assert any("threat" not in name for name in files)


def test_threats_have_files_of_their_own(tmp_path: Path) -> None:
    """An item with a match of a threat rule is in one file, with all its matches; context in a second one."""
    of = [(), (OTHER,), (THREAT,), (OTHER, THREAT), ()]
    items = [
        item(number)._replace(matches=tuple(Match(rule, 0, 1) for rule in rules))
        for number, rules in enumerate(of)
    ]
    items[4] = items[4]._replace(role=Role.AFTER)
    with writing(tmp_path) as writer:
        chunks = writer.write(block_of_objects(items))
        assert [len(chunk.block) for chunk in chunks] == [2, 2, 1]
        raw = [one._replace(linktype=101) for one in items]
        writer.write(block_of_objects(raw))
    assert (writer.written, writer.context_written) == (8, 2)
    assert [numbers_in(path) for path in writer.paths] == [[4], [4], [0, 1], [2, 3], [2, 3], [0, 1]]
    assert names_in(tmp_path) == [
        "202306181200-context-linktype101.pcap",
        "202306181200-context.pcap",
        "202306181200-linktype101.pcap",
        "202306181200-threat-linktype101.pcap",
        "202306181200-threat.pcap",
        "202306181200.pcap",
    ]


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"gib": 9}, (1, 4, 4)),
        ({"gib": 6}, (0, 2, 4)),
        ({"gib": 3}, (0, 0, 3)),
        ({"threat_gib": 1}, (4, 4, 1)),
        ({"gib": 5, "threat_gib": 2}, (0, 3, 2)),
        ({"days": 30, "threat_days": 365}, (2, 2, 4)),
        ({"threat_days": 30}, (4, 4, 2)),
    ],
    ids=str,
)
def test_limits_by_class(
    tmp_path: Path, limits: dict[str, float], kept: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of context go first, then others without threats; threats have limits of their own."""
    monkeypatch.setattr(stored_files, "LISTING_S", 0.0)
    for number, day in enumerate(("0501", "0502", "0617", "0618")):
        for suffix in ("", "-context", "-threat"):
            (tmp_path / f"2023{day}12{5 * number:02}{suffix}.pcap").write_bytes(bytes(1000))
    scaled = {name: value / 2**30 * 1000 if "gib" in name else value for name, value in limits.items()}
    retention = Retention(tmp_path, Limits(**scaled), len)
    for _ in range(3):
        retention.enforce(ClockReading(NOON_S, NOON_S, is_synchronised=True))
    left = sorted(path.name for path in tmp_path.iterdir())
    by_kind = Counter(name.kind for name in map(parse_name, left) if name)
    assert tuple(by_kind[kind] for kind in FileKind) == kept
    assert all(name.startswith(("20230617", "20230618")) for name in left[-2:])


def test_context_has_the_room_that_is_left() -> None:
    """It neither has shares by source and rule, nor uses them; the next report brings room again."""
    made = budgets(SHORT._replace(context_room=10.5 * ITEM_BYTES))
    assert admitted(made, context_of(4), 5) == 10
    assert made.context_suppressed == 10
    assert made.suppressed.total() == made.matches.total() == 0
    assert admitted(made, block(1, bytes(4), OTHER), 60) == 50
    made.update(SHORT._replace(context_room=2 * ITEM_BYTES), 0)
    assert admitted(made, context_of(4)) == 2


def test_context_has_no_shares() -> None:
    """The packets around a match use up nothing that belongs to the matches of their source."""
    made = budgets(SHORT)
    source = bytes(context_of(1).items["source"][0][:4])
    assert admitted(made, context_of(10), 12) == 120
    assert admitted(made, block(1, source, OTHER), 60) == 50
    assert admitted(made, context_of(10), 12) == 120


def test_context_leaves_room_for_everything_else(tmp_path: Path) -> None:
    """Its room is the limit of size without the evidence of matches and the index."""
    for suffix, size in (("", 1000), ("-context", 2000), ("-threat", 4000)):
        (tmp_path / f"202306181200{suffix}.pcap").write_bytes(bytes(size))
    retention = Retention(tmp_path, Limits(gib=16_000 / 2**30), len)
    retention.enforce(ClockReading(NOON_S, NOON_S, is_synchronised=True))
    space = retention.space
    assert (space.open_limit, space.context_limit, space.others) == (12_000, 11_000, 12_000)
    assert not space.is_short


@pytest.mark.parametrize("rule", [THREAT, OTHER])
def test_one_source_has_its_share(rule: Rule) -> None:
    """Beyond it its evidence is suppressed, by a /64 of IPv6; that of others is not, nor of another class."""
    made = budgets(SHORT, rule=100)
    network = bytes.fromhex("20010db8000000aa")
    flood = [block(1, network + number.to_bytes(8, "big"), rule) for number in range(80)]
    assert sum(admitted(made, one) for one in flood) == 50
    assert made.suppressed == {"source": 30, "rule": 0, "space": 0}
    assert made.matches == {rule.rule_class: 30}
    assert admitted(made, block(1, network[:7] + bytes(9), rule)) == 1
    assert admitted(made, block(1, flood[0].items["source"][0].tobytes(), THREAT if rule is OTHER else OTHER))


def test_one_rule_has_its_share() -> None:
    """An item is admitted if one of its rules is below its budget; time brings room again."""
    made = budgets(SHORT)
    sources = [number.to_bytes(4, "big") for number in range(1, 101)]
    assert sum(admitted(made, block(1, source, THREAT)) for source in sources) == 50
    assert made.suppressed["rule"] == 50
    assert admitted(made, block(1, sources[0], OTHER, THREAT)) == 1
    assert admitted(made, block(1, sources[0])) == 1
    made.update(SHORT, DAY_S / 2)
    assert sum(admitted(made, block(1, source, THREAT)) for source in sources) in range(24, 27)


@pytest.mark.parametrize("made", [budgets(SHORT._replace(is_short=False)), budgets(SHORT, 100, 100)])
def test_nothing_is_suppressed_while_there_is_space(made: Budgets) -> None:
    """Shares count only when space is short; 100 percent are no limit."""
    assert admitted(made, block(10, b"\x0a\0\0\1", THREAT), 100) == 1000


def test_only_threats_are_written_to_the_reserve() -> None:
    """Other evidence may use the room of the last report, once."""
    made = budgets(Space(room=10.5 * ITEM_BYTES))
    assert admitted(made, block(6, bytes(4), OTHER), 3) == 10
    assert made.suppressed["space"] == 8
    assert admitted(made, block(6, bytes(4), THREAT, OTHER), 3) == 18
    made.update(Space(room=2 * ITEM_BYTES), 0)
    assert admitted(made, block(6, bytes(4))) == 2


def test_open_files_are_part_of_the_limit_of_size() -> None:
    """They leave less room for what is written next."""
    made = Budgets(50, 50, lambda: dict.fromkeys(FileKind, 8 * ITEM_BYTES))
    made.update(Space(open_limit=10 * ITEM_BYTES, context_limit=11 * ITEM_BYTES), 0)
    assert admitted(made, block(6, bytes(4), OTHER)) == 2
    assert admitted(made, context_of(6)) == 3


def test_many_sources_do_not_fill_the_budgets_of_others() -> None:
    """The tables are bounded; a source that sent nothing has room beside a hundred thousand that did."""
    made = budgets(Space(others=1e9, threats=1e9, is_short=True), rule=100)
    for first in range(0, 100_000, 10_000):
        flood = block(10_000, bytes(4), OTHER)
        addresses = np.arange(first, first + 10_000, dtype=">u4").view(np.uint8).reshape(-1, 4)
        flood.items["source"][:, :4] = addresses
        assert len(made.admit(flood)) == 10_000
    assert admitted(made, block(1, b"\xff\xff\xff\xff", OTHER)) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_budgets_change_nothing_in_what_they_admit(count: int) -> None:
    """An item that has passed them has the addresses with which it came."""
    one = block(count, bytes([192, 0, 2, 1]), THREAT)
    before = one.items.copy()
    assert (budgets(SHORT).admit(one).items == before).all()
