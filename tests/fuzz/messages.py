"""Messages between processes: whatever the bytes are, the receiver raises only the named error.

Messages come whole (the event sender's socket) or in pieces (the reindexing process' pipe).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from evidence_queries import RULES, random_items

from sensor.events.channel import EventKind, SenderConfig
from sensor.events.eve import EventOptions
from sensor.evidence.block import block_of_objects
from sensor.evidence.message import HEADER_BYTES, MalformedMessageError, ReceivedMessage, pack
from sensor.evidence.rule_codec import decode_rules, encode_rules
from sensor.evidence.rule_numbers import RuleTable
from sensor.live.indexer_channel import REPORT_BYTES, IndexerReport
from sensor.live.message_pipe import MessagePipe
from tests.fuzz.blocks import use
from tests.fuzz.rounds import Round

MESSAGES = 3000
PIPES = 300
MOST_BYTES = 1 << 20
_CONFIG = SenderConfig(("file:/x",), EventOptions("host", 3, 0, None), 1 << 20, "default")
_VALUES: tuple[Any, ...] = (None, True, 0, -1, 1.5, 1 << 70, "", "tcp", "\ud800", [], [[]], {}, {"a": None})


def fuzz(one: Round) -> None:
    """Receive damaged messages of all kinds."""
    rng = one.rng
    for _ in range(MESSAGES):
        data = _damaged(_sound(rng), rng)
        with one.no_other_error(MalformedMessageError, message_bin=data):
            message = ReceivedMessage.of(data, MOST_BYTES)
            one.comparisons += 1
            for receive in (
                lambda m: use(m.block(RULES)),
                lambda m: m.rows(RULES),
                RuleTable().define,
                lambda m: SenderConfig.of(m.text),
            ):
                with one.no_other_error(MalformedMessageError, message_bin=data):
                    receive(message)
        report = _damaged(IndexerReport(1, 2, 3, 4, 5, 1.7e9).pack(), rng)[
            : rng.choice((REPORT_BYTES, 10**6))
        ]
        with one.no_other_error(MalformedMessageError, report_bin=report):
            found = IndexerReport.of(report)
            assert IndexerReport.of(found.pack()) == found
        rules = _odd_rules(rng)
        with one.no_other_error(MalformedMessageError, rules_json=rules):
            decoded = decode_rules(rules)
            assert decode_rules(encode_rules(decoded)) == decoded
        one.comparisons += 2
    for _ in range(PIPES):
        sent = b"".join(_sound(rng) if rng.random() < 0.7 else _damaged(_sound(rng), rng) for _ in range(3))
        with one.no_other_error(EOFError, MalformedMessageError, stream_bin=sent):
            for _ in _received(sent, rng):
                one.comparisons += 1


def _sound(rng: random.Random) -> bytes:
    match rng.randrange(4):
        case 0:
            return b"".join(pack(EventKind.RULES, encode_rules(rng.sample(RULES, rng.randrange(4)))))
        case 1:
            return b"".join(pack(EventKind.CONFIG, _CONFIG.as_json()))
        case _:
            block = block_of_objects(random_items(rng.randrange(1, 4), seed=rng.getrandbits(30)))
            return b"".join(pack(EventKind.BLOCK, b"/e/x", block, 24, with_records=rng.random() < 0.8))


def _damaged(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(0, 3)):
        place = rng.randrange(min(len(changed), rng.choice((HEADER_BYTES, 1 << 20))))
        size = rng.choice((1, 1, 2, 4))
        changed[place : place + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.1 else changed)


def _odd_rules(rng: random.Random) -> bytes:
    """Return rules as JSON with values that no rule has, or with damage to the text."""
    objects = [asdict(rule) for rule in rng.sample(RULES, rng.randint(1, 3))]
    for _ in range(rng.randint(0, 2)):
        fields = rng.choice(objects)
        name = rng.choice((*fields, "other"))
        if rng.random() < 0.1:
            fields.pop(name, None)
        else:
            fields[name] = rng.choice(_VALUES)
    text = bytearray(json.dumps(objects).encode())
    if rng.random() < 0.3:
        place = rng.randrange(len(text))
        text[place : place + rng.choice((0, 1, 9))] = rng.choice(
            (b"", b"[" * 5000, b"\xff", b"9" * 5000, b'"', b"NaN")
        )
    return bytes(text)


def _received(sent: bytes, rng: random.Random) -> Iterator[ReceivedMessage]:
    """Yield the messages of a pipe into which the bytes are written in pieces."""
    reader, writer = os.pipe()
    pipe = MessagePipe(reader, MOST_BYTES)
    try:
        while sent:
            size = rng.choice((1, 31, 32, 33, 4000, 30_000))
            os.write(writer, sent[:size])
            sent = sent[size:]
            while message := pipe.read():
                yield message
    finally:
        os.close(writer)
        pipe.close()
