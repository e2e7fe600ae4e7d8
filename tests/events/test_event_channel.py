"""The channel to the event sender: rules are known when they are needed, and garbage ends the sender only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from event_samples import THREAT, chunk, item, sending
from processes import wait_until

from sensor.events.channel import EventKind, SenderConfig, parts_of
from sensor.events.eve import EventOptions
from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.message import HEADER_BYTES, MalformedMessageError, ReceivedMessage, pack
from sensor.evidence.rule_codec import decode_rules, encode_rules
from sensor.evidence.rule_numbers import RuleNumbers, RuleTable
from sensor.evidence.writer import Chunk
from sensor.model import Match, Rule

MIB = 1 << 20
CONFIG = SenderConfig(("file:/x",), EventOptions("höst", 3, 100, None), 1 << 20, "default")


def events(path: Path) -> list[dict[str, Any]]:
    """Return the events in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbered(count: int, first: int = 0, regex: str = "union") -> tuple[Rule, ...]:
    """Return rules that differ in their ids."""
    return tuple(Rule(1 + first + number, "service", "T", f"N{number}", regex) for number in range(count))


def test_rules_of_alternating_rule_sets(tmp_path: Path) -> None:
    """During a reload, blocks of the old and the new rules mix: each event has its own rule."""
    old, new = numbered(3), numbered(3, 100)
    with sending(f"file:{tmp_path / 'eve.json'}") as sender:
        for number in range(4):
            for rules in (old, new):
                block = block_of_objects([item(number, rules=rules[number % 3 :])])
                sender.offer([Chunk(None, 0, block), Chunk(None, 0, block)])
    found = [event["alert"]["signature_id"] for event in events(tmp_path / "eve.json")]
    expected = [
        rule.rule_id
        for number in range(4)
        for rules in (old, new)
        for _ in range(2)
        for rule in rules[number % 3 :]
    ]
    assert found == expected


def test_more_rules_than_a_message_holds(tmp_path: Path) -> None:
    """They are defined in several messages; an event has the name of its rule."""
    rules = numbered(300, regex="union|" + "x" * 5000)
    with sending(f"file:{tmp_path / 'eve.json'}") as sender:
        sender.offer([Chunk(None, 0, block_of_objects([item(0, rules=rules), item(1, rules=rules[::-1])]))])
        wait_until(lambda: sender.states()[0].waiting == 0)
        assert sender.states()[0].lost == 0
    found = [
        (event["alert"]["signature_id"], event["alert"]["signature"])
        for event in events(tmp_path / "eve.json")
    ]
    expected = [(rule.rule_id, rule.name) for rule in (*rules, *rules[::-1])]
    assert found == expected


def test_a_rule_that_no_message_holds(tmp_path: Path) -> None:
    """Its events are lost and counted; the next events arrive."""
    huge = Rule(1, "service", "T", "N", "x" * (2 << 20))
    with sending(f"file:{tmp_path / 'eve.json'}") as sender:
        sender.offer([Chunk(None, 0, block_of_objects([item(0, rules=(huge,))])), chunk(1, 2)])
    assert (sender.states()[0].sent, sender.states()[0].lost) == (2, 1)


def test_a_rule_set_is_defined_once() -> None:
    """Only rules that were not used before are sent; a part that could not be sent is sent again."""
    numbers, table = RuleNumbers(), RuleTable()
    rules = numbered(200, regex="x" * 1000)
    block = block_of_objects([item(0, rules=rules)])
    few = EvidenceBlock(block.items, block.rules[100:], block.records, block.rule_set)
    sent = list(numbers.definitions(few))
    for first, text in sent:
        table.define(ReceivedMessage.of(b"".join(pack(EventKind.RULES, text, number=first)), MIB))
    assert len(sent) > 1
    assert list(numbers.definitions(few)) == []
    rest = numbers.definitions(block)
    next(rest)
    rest.close()  # the channel was full
    for first, text in numbers.definitions(block):
        table.define(ReceivedMessage.of(b"".join(pack(EventKind.RULES, text, number=first)), MIB))
    assert [table.rules[number] for number in numbers.numbered(block).rules] == list(rules)


def test_parts_of_a_chunk() -> None:
    """They are the chunk, in order, with the offsets of their records; each fits into a message."""
    items = [item(number, b"x" * (number * 37 % 5000), numbered(number % 50)) for number in range(700)]
    items[300] = item(300, b"x" * 200_000)
    whole = Chunk(Path("/e/x"), 24, block_of_objects(items))
    parts = list(parts_of(whole))
    assert b"".join(part.block.records.tobytes() for part in parts) == whole.block.records.tobytes()
    assert [rule for part in parts for rule in part.block.rules] == list(whole.block.rules)
    offset = 24
    for part in parts:
        assert part.offset == offset
        offset += len(part.block.records)
        assert sum(map(len, pack(EventKind.BLOCK, b"", part.block))) < 300_000
    assert len(parts) > 10


GARBAGE = {
    "empty": b"\0",
    "zeros": bytes(HEADER_BYTES),
    "kind": b"".join(pack(9)),
    "short": b"".join(pack(EventKind.REOPEN))[:-1],
    "long": b"".join(pack(EventKind.REOPEN)) + b"x",
    "second configuration": b"".join(pack(EventKind.CONFIG, CONFIG.as_json())),
    "no rules": b"".join(pack(EventKind.RULES, b"[}")),
    "a gap in the rules": b"".join(pack(EventKind.RULES, encode_rules([THREAT]), number=7)),
    "block": b"".join(pack(EventKind.BLOCK, b"/x", chunk(0, 3).block))[:-40],
    "huge": b"".join(pack(EventKind.BLOCK))[:4] + b"\xff" * 28,
}


@pytest.mark.parametrize("name", sorted(GARBAGE))
def test_garbage_ends_the_sender(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """All events before it are sent, the log says why the sender ended, and another one is started."""
    with sending(f"file:{tmp_path / 'eve.json'}") as sender:
        sender.offer([chunk(0, 10)])
        sender._channel.send(GARBAGE[name])
        wait_until(lambda: sender.tick() or "the event sender died (exit code 1)" in caplog.text)
        sender.offer([chunk(10, 10)])
    assert (sender.states()[0].sent, sender.states()[0].lost) == (20, 0)
    assert [event["src_port"] for event in events(tmp_path / "eve.json")] == list(range(20))
    log = capfd.readouterr().err
    assert log.count("the event sender received a malformed message and ends: ") == 1
    assert "Traceback" not in log


def test_a_block_with_a_rule_that_is_not_defined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The sender ends, as it must not guess."""
    with sending(f"file:{tmp_path / 'eve.json'}") as sender:
        sender._channel.sendmsg(pack(EventKind.BLOCK, b"", chunk(0, 1).block))
        wait_until(lambda: sender.tick() or "the event sender died (exit code 1)" in caplog.text)
    assert "a rule is unknown" in capfd.readouterr().err


def test_the_configuration() -> None:
    """It comes back; fields of other types are refused."""
    assert SenderConfig.of(CONFIG.as_json()) == CONFIG
    fields = json.loads(CONFIG.as_json())
    for change in (
        {"urls": [1]},
        {"urls": None},
        {"options": {"host": "x"}},
        {"options": fields["options"] | {"payload": "1"}},
        {"queue_bytes": "1"},
        {"profile": None},
    ):
        with pytest.raises(MalformedMessageError):
            SenderConfig.of(json.dumps(fields | change).encode())


def test_rules_as_json() -> None:
    """All fields come back; a field that no rule can have is refused."""
    rules = [THREAT, Rule(2, "os", "T", "é", "a|é", 6, 80, True, "head", "url", "1", "v", "o", "d", True)]
    assert decode_rules(encode_rules(rules)) == rules
    assert decode_rules(encode_rules([Rule(1, "os", "T", "a\ud800", "x")]))[0].name == "a?"
    [fields] = json.loads(encode_rules([THREAT]))
    for change in (
        {"rule_id": 0},
        {"rule_id": 1 << 70},
        {"rule_id": True},
        {"rule_id": 1.0},
        {"rule_class": "none"},
        {"rule_class": ["os"]},
        {"name": None},
        {"name": "\ud800"},
        {"port": 65536},
        {"port": -1},
        {"protocol": 1},
        {"protocol": [6]},
        {"is_http": 1},
        {"part": "tail"},
        {"decode": "base64"},
        {"version": 1},
        {"context": 1},
        {"other": 1},
    ):
        with pytest.raises(MalformedMessageError):
            decode_rules(json.dumps([fields | change]).encode())
    for text in (b"", b"{}", b"[1]", b"[{}]", b"[" * 100_000, b"\xff", b"[" + b"9" * 10_000 + b"]"):
        with pytest.raises(MalformedMessageError):
            decode_rules(text)


def test_the_rules_of_a_match_keep_their_order(tmp_path: Path) -> None:
    """The events of a packet have the order of its matches, whatever the order of the numbers."""
    rules = numbered(5)
    one = item(0, rules=())
    first = one._replace(matches=(Match(rules[3], 0, 1),))
    second = one._replace(matches=tuple(Match(rule, 0, 1) for rule in rules))
    with sending(f"file:{tmp_path / 'eve.json'}") as sender:
        sender.offer(
            [Chunk(None, 0, block_of_objects([second])), Chunk(None, 0, block_of_objects([first, second]))]
        )
    found = [event["alert"]["signature_id"] for event in events(tmp_path / "eve.json")]
    assert found == [1, 2, 3, 4, 5, 4, 1, 2, 3, 4, 5]
