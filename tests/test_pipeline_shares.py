"""The pipeline in an overload: what is sampled is counted, and everything else is as ever."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from evidence_of import evidence_of
from frames import IPV4, TCP, batch_of, ethernet, ipv4, tcp
from source_packets import MS, SECOND, START_NS, SourcePackets
from test_pipeline import RULES
from test_turns import NO_TIME_NS, mixed_batch

from sensor.capture.fair_shares import FairShares
from sensor.evidence.block import joined
from sensor.evidence.explain_block import explained
from sensor.model import FrameBatch
from sensor.native.source_table import SOURCES, SourceTable
from sensor.pipeline import Keep, Pipeline
from sensor.process.child import FunctionProcess
from sensor.rules.cost import batch_of as specimens_batch
from sensor.rules.engine.budget import EXTRA_NS, SHORT_NS
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.profile import PROFILES
from sensor.rules.obstacles import Specimen

ATTACKER = "10.66.66.66"
STOPPED_S = 0.02
OFFICE = [f"192.0.2.{number}" for number in range(1, 20)]


def frame(source: str, port: int) -> bytes:
    """Return a frame that a rule matches."""
    packet = ipv4(TCP, tcp(b"attack", sport=port, dport=80), source=source, destination="198.51.100.10")
    return ethernet(IPV4, packet)


def overloaded(pipeline: Pipeline, demand: float = 5) -> SourceTable:
    """Give the pipeline a full ring, and a table in which the attacker asks for some CPUs."""
    table = SourceTable()
    packets = SourcePackets([ATTACKER] * 1000, np.arange(1000) * MS)
    table.charge(packets.data, packets.columns, np.full(1000, int(demand * MS)))
    pipeline.shares = FairShares(table, lambda: 1.0)
    return table


def attack() -> FrameBatch:
    """Return the attacker's frames, from many ports, and some of the office."""
    packets = [frame(ATTACKER, port) for port in range(1000, 3000)]
    packets[::100] = [frame(source, 40_000) for source in (OFFICE + OFFICE)[:20]]
    batch = batch_of([*packets, b"cut"])
    return replace(batch, timestamp_ns=np.full(len(batch), START_NS + SECOND))


@pytest.mark.parametrize("turn_ns", [0, NO_TIME_NS], ids=["one turn", "many turns"])
def test_the_costly_source_is_sampled(turn_ns: int) -> None:
    """All evidence of others is there; each frame is in one bucket, whenever the turns end."""
    pipeline = Pipeline(Matcher(RULES), "any")
    table = overloaded(pipeline)
    block = joined([turn.block for turn in pipeline.turns(attack(), turn_ns)])
    sources = [item.five_tuple.source_text for item in explained(block, pipeline.matcher.http)]
    assert [source for source in sources if source != ATTACKER] == (OFFICE + OFFICE)[:20]
    assert 0 < sources.count(ATTACKER) < 200
    assert pipeline.sampled == 1980 - sources.count(ATTACKER)
    assert (pipeline.read, pipeline.undecodable, pipeline.unmatched, pipeline.matched) == (
        2001,
        1,
        0,
        len(sources),
    )
    places = table.sources(np.arange(SOURCES))
    assert places["sampled"].sum() == pipeline.sampled


@pytest.mark.parametrize("keep", ["any", "threat", "flow"])
@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_changes_without_an_overload(profile: str, keep: Keep) -> None:
    """The evidence and the counters are those of capture files, which are never sampled."""
    batch, matcher = mixed_batch(), Matcher(RULES, PROFILES[profile].http)
    files, live = Pipeline(matcher, keep, profile), Pipeline(matcher, keep, profile)
    table = SourceTable()
    live.shares = FairShares(table, lambda: 0.1)
    assert evidence_of(live, batch) == evidence_of(files, batch)
    assert (live.read, live.undecodable, live.unmatched, live.sampled, live.matched) == (
        files.read,
        files.undecodable,
        files.unmatched,
        0,
        files.matched,
    )
    assert table.changed_ns > 0


def test_the_time_that_matching_takes_is_charged() -> None:
    """The costs of the sources add up to no more than the time that was measured around all of them."""
    pipeline, table = Pipeline(Matcher(RULES), "any"), SourceTable()
    pipeline.shares = FairShares(table, lambda: 0.0)
    pipeline.process(attack())
    sums = table.sources(np.arange(SOURCES))["sums"]
    assert sums["matched"].sum() == 2000
    assert 0 < sums["cost_ns"].sum() <= pipeline.match_ns


def match_until_stopped() -> None:
    """Match until this process was stopped in the middle of it; no packet costs more than it may."""
    matcher = Matcher(RULES)
    specimens = [Specimen(b"GET /%d HTTP/1.1\r\n\r\n" % number, TCP, 1024, 80) for number in range(20_000)]
    buffer, payloads = specimens_batch(specimens, matcher.http)
    waited_ns = 0
    while waited_ns < 2 * STOPPED_S * 1e9:
        started_ns = time.monotonic_ns()
        cost_ns = matcher.matches(buffer, payloads, measure=True).cost_ns
        waited_ns += time.monotonic_ns() - started_ns - int(cost_ns.sum())
        assert cost_ns.max() <= 2 * (2 * SHORT_NS + EXTRA_NS)


def test_a_packet_is_not_charged_for_other_processes() -> None:
    """A worker that does not get the CPU for some time blames no source for it."""
    worker = FunctionProcess(match_until_stopped, (), "worker")
    while worker.poll() is None:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            os.kill(worker.pid, number)
            time.sleep(STOPPED_S)
    assert worker.wait() == 0


def test_everything_sampled() -> None:
    """A batch of which nothing is admitted ends, and is counted."""
    pipeline = Pipeline(Matcher(RULES), "any")
    overloaded(pipeline, demand=1e5)
    batch = batch_of([frame(ATTACKER, port) for port in range(1000, 1010)])
    [turn] = pipeline.turns(replace(batch, timestamp_ns=np.full(10, START_NS + SECOND)), NO_TIME_NS)
    assert (turn.end, len(turn.block), pipeline.sampled, pipeline.read) == (10, 0, 10, 10)
