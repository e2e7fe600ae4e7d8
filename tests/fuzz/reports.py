"""Reports of workers: whatever a worker sends, the supervisor raises only the named error.

Each message is a record and perhaps a block in shared memory, sound or damaged. What passes the checks adds
up, and can be used.
"""

from __future__ import annotations

import random
import socket
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
from evidence_queries import RULES, random_items

from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.block_codec import block_bytes, encode_block
from sensor.live.report_channel import MESSAGE, SLOTS, Kind, MalformedReportError, ReportChannel
from sensor.live.report_check import checked_report
from sensor.pipeline import Pipeline
from sensor.rules.engine.matcher import Matcher
from tests.fuzz.blocks import damaged, use
from tests.fuzz.rounds import Round

MESSAGES = 3000
INTERFACES = (1, 2)
CPUS = (0, 3)
HEAD = 1 << 40
_VALUES = (0, 1, 2, 3, 4, 7, 8, 16, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 64) - 1)
_FILLS = (0.0, 0.5, 1.0, -0.1, 1.1, float("nan"), float("inf"))


def fuzz(one: Round) -> None:
    """Receive the messages of a worker that may say anything."""
    rng = one.rng
    pipeline = Pipeline(Matcher(RULES), "any")
    items = [item._replace(linktype=1) for item in random_items(60, seed=rng.getrandbits(30))]
    channel = ReportChannel()
    with socket.socket(fileno=socket.dup(channel.worker_fd)) as sender, closing(channel):
        channel.enter_supervisor()
        sender.setblocking(False)
        worker = _worker()
        for _ in range(MESSAGES):
            block = block_of_objects(items[(at := rng.randrange(50)) : at + rng.choice((0, 0, 1, 4))])
            message = _message(block, channel, worker, rng)
            sender.send(message)
            _take_slots(sender)
            with one.no_other_error(MalformedReportError, message_bin=message):
                received = channel.receive(pipeline)
                assert received is not None
                one.comparisons += 1
                report = checked_report(worker, received, INTERFACES)
                if received.block is not None:
                    use(received.block)
                if report:
                    assert report.read == report.undecodable + report.unmatched + len(report.block or ())
                    assert 0 <= report.fill <= 1
                    assert worker.reported_tails[report.cpu] == report.tail <= HEAD
            if rng.random() < 0.1:
                worker = _worker()


def _worker() -> Any:
    """Return the properties of a worker that the checks look at."""
    return SimpleNamespace(
        stop_signal=None,
        has_started=False,
        has_reported=False,
        has_stopped=False,
        parts=[],
        rings=[SimpleNamespace(cpu=cpu, head=HEAD, tail=0, linktype=1) for cpu in CPUS],
        reported_tails=dict.fromkeys(CPUS, 0),
    )


def _message(block: EvidenceBlock, channel: ReportChannel, worker: Any, rng: random.Random) -> bytes:
    """Put a block into a slot, and return a message about it; both are damaged at times."""
    message = np.zeros(1, MESSAGE)
    parts = sum(map(len, worker.parts))
    cpu, slot = rng.choice(CPUS), rng.randrange(SLOTS)
    if len(block):
        data = np.zeros(block_bytes(len(block), len(block.rules), len(block.records)), np.uint8)
        encode_block(block, data)
        if rng.random() < 0.3:
            data = damaged(data, len(block), rng)
        channel._slots[slot, : len(data)] = data
    message["kind"] = rng.choice((Kind.REPORT, Kind.REPORT, Kind.REPORT, Kind.PART, Kind.STARTED))
    message["cpu"], message["slot"], message["fill"] = cpu, slot, 0.5
    message["items"], message["rules"] = len(block), len(block.rules)
    message["records_bytes"] = len(block.records)
    message["read"] = parts + len(block) + 5
    message["undecodable"], message["unmatched"] = 2, 3
    message["tail"] = worker.reported_tails[cpu] + 8 * 1000
    for name in rng.sample(MESSAGE.names, rng.choice((0, 0, 1, 1, 2))):
        kind = MESSAGE.fields[name][0]
        message[name] = (
            rng.choice(_FILLS) if kind.kind == "f" else rng.choice(_VALUES) % (1 << 8 * kind.itemsize)
        )
    data = message.tobytes()
    if rng.random() < 0.05:
        return rng.choice(
            (data[:-1], data + b"x", rng.randbytes(len(data)), rng.randbytes(rng.randrange(1, 200)))
        )
    return data


def _take_slots(sender: socket.socket) -> None:
    """Read the slots that the supervisor gave back, as a sound worker does."""
    while True:
        try:
            sender.recv(1)
        except BlockingIOError:
            return
