"""The process that looks into the history: the supervisor checks whatever it answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flow_packets import Open, key4, packet4
from processes import wait_until

from sensor.capture.program import Program
from sensor.capture.syscalls import prog_test_run
from sensor.decode import decode
from sensor.evidence.batch_report import BatchReport
from sensor.live import recaller as module
from sensor.live.recall import ContextFinder
from sensor.live.recall_channel import REQUEST, RecallChannel
from sensor.live.recaller import Recalled, Recaller
from sensor.model import LinkType
from sensor.native.frame_history import HistoryReader
from sensor.pipeline import Pipeline
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.engine.matcher import Matcher

pytestmark = pytest.mark.kernel

SENT = [
    packet4(payload=b"GET / HTTP/1.1"),
    packet4(443, 40000, source="198.51.100.20", destination="192.0.2.10"),
]
Lie = Callable[[BatchReport], BatchReport]


def lies() -> dict[str, Lie]:
    """Return changes of a sound answer that no sound process makes."""

    def changed(**fields: Any) -> Lie:
        def lie(report: BatchReport) -> BatchReport:
            assert report.block
            items = report.block.items.copy()
            for name, value in fields.items():
                items[name] = value
            return report._replace(block=replace(report.block, items=items))

        return lie

    return {
        "a number that was not asked for": lambda report: report._replace(tail=report.tail + 1),
        "matches": changed(role=0),
        "a conversation": changed(conversation=7),
        "another interface": changed(interface=99),
        "another link type": changed(linktype=int(LinkType.RAW)),
        "a payload outside of its frame": changed(payload_end=1 << 20),
        "a record that is not there": changed(record=1 << 20),
    }


@pytest.fixture
def pipeline() -> Pipeline:
    """Return a pipeline without rules."""
    return Pipeline(Matcher([], RFC9110), "any")


@pytest.fixture
def program(load: Open) -> Iterator[Program]:
    """Load the program with a history of this CPU, in which a flow is."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    loaded = load(history_mib=1)
    assert loaded.history
    loaded.history.add([min(before)])
    for frame in SENT:
        prog_test_run(loaded.fd, frame)
    yield loaded
    os.sched_setaffinity(0, before)


def request(program: Program, pipeline: Pipeline) -> Any:
    """Return a request for that flow."""
    assert program.history
    [history] = program.history.mapped()
    flow_hash = program.flow_hash(key4())
    batch = HistoryReader(history.chunks, history.heads).collect(flow_hash).batch()

    packets = decode(batch)
    [flow] = set(
        pipeline.flow_hash.keys(np.frombuffer(batch.buffer, np.uint8), packets, np.arange(2)).tolist()
    )
    asked = np.zeros(1, REQUEST)
    asked["number"], asked["flows"], asked["hashes"] = 5, (flow, 0), (flow_hash, 1)
    asked["until_ktime_ns"] = time.monotonic_ns()
    return asked


def answer(looking: Recaller) -> Recalled:
    """Wait for an answer; meanwhile the process is looked after, as in the supervisor."""
    found: list[Recalled] = []

    def has_answered() -> bool:
        looking.tick()
        found.extend(looking.receive())
        return bool(found)

    wait_until(has_answered, every_s=0.01)
    [only] = found
    return only


def frames_of(recalled: Recalled) -> list[int]:
    """Return the length of each frame of an answer."""
    return [] if recalled.block is None else recalled.block.items["caplen"].tolist()


def test_the_flow_is_found(program: Program, pipeline: Pipeline) -> None:
    """Both directions, in order, without other flows."""
    assert program.history
    prog_test_run(program.fd, packet4(1))
    with closing(Recaller(program.history, pipeline.flow_hash, 1, {1}, lambda: pipeline)) as looking:
        asked = request(program, pipeline)
        assert looking.request(asked)
        recalled = answer(looking)
    assert (recalled.number, recalled.is_truncated) == (5, False)
    assert frames_of(recalled) == [len(frame) for frame in SENT]


@pytest.mark.parametrize("name", lies())
def test_a_process_that_lies_is_replaced(
    program: Program, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its successor is asked again, and nothing that it said is used."""
    assert program.history
    asked = request(program, pipeline)

    def liar(channel: RecallChannel, histories: Any, flow_hash: Any, linktype: int, _supervisor: int) -> None:
        channel.enter_recaller()
        finder = ContextFinder(histories, flow_hash, linktype)
        while len(received := channel.receive()):
            for report in finder.answers(received):
                channel.answers.report(lies()[name](report))

    honest = module.recall
    monkeypatch.setattr(module, "recall", liar)
    with closing(Recaller(program.history, pipeline.flow_hash, 1, {1}, lambda: pipeline)) as looking:
        liar_pid = looking.pid
        monkeypatch.setattr(module, "recall", honest)
        assert looking.request(asked)
        recalled = answer(looking)
        assert looking.pid != liar_pid
    assert frames_of(recalled) == [len(frame) for frame in SENT]
