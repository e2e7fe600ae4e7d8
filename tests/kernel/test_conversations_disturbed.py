"""Conversations of `sensor run` when processes die, CPUs share a flow, or the history ends early."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from live import METRICS, Run, running, wait_until_received
from processes import children, wait_until
from test_run import Network, assert_law
from test_run_conversations import SQL_INJECTION, START_US, attacks, kept, whole

from sensor.bench.traffic import notable
from sensor.bench.traffic.conversations import TcpConversation
from sensor.bench.traffic.frames import Frame
from sensor.bench.traffic.messages import http_request
from sensor.evidence.conversation_object import conversation_object
from sensor.evidence.conversation_search import ConversationSearch
from sensor.evidence.query import Query
from sensor.evidence.search import EvidenceSearch
from sensor.metrics import catalogue as c
from sensor.metrics.figures import ask

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]
THREATS = ("--keep", "threat")


@contextmanager
def wire(network: Network) -> Iterator[socket.socket]:
    """Open a socket that sends frames from this process, and thus on its CPU."""
    before = os.sched_getaffinity(0)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened:
        opened.bind((network[1], 0))
        yield opened
    os.sched_setaffinity(0, before)


def send(to: socket.socket, frames: Sequence[Frame], cpus: Sequence[int] = ()) -> None:
    """Send frames one by one, each from its CPU if ``cpus`` are given."""
    for place, frame in enumerate(frames):
        if cpus:
            os.sched_setaffinity(0, {cpus[place]})
        to.send(frame.data)


def conversations(evidence: Path) -> list[dict[str, Any]]:
    """Return the conversations in the index, the oldest first."""
    wait_until(lambda: EvidenceSearch(evidence).status()["index"]["state"] == "ok")
    found = ConversationSearch(evidence).page(Query(), 1000).conversations
    return [conversation_object(one) for one in reversed(found)]


def hit_of(talk: Any) -> int:
    """Return the position of the attack among the frames."""
    return next(i for i, frame in enumerate(talk.frames) if b"union%20select" in frame.data)


def wait_for_match(matches: int = 1) -> None:
    """Wait until matches were written."""
    wait_until(lambda: (ask(METRICS).total(c.EVIDENCE, outcome="written") or 0) >= matches)


def assert_whole(run: Run, evidence: Path, talk: Any) -> None:
    """Assert that a conversation is on disk as it was sent, and that the index says so."""
    assert whole([talk], kept(run)) == [True]
    assert_law(run)
    [found] = conversations(evidence)
    assert (found["complete"], found["ended"], found["missing"]) == (True, "fin", [])
    assert found["packets_to_server"] + found["packets_to_client"] == len(talk.frames)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_two_cpus_with_the_two_directions(network: Network, tmp_path: Path) -> None:
    """Each CPU has a history and a ring of its own, and a worker."""
    [talk] = attacks(1)
    first, second, *_ = sorted(os.sched_getaffinity(0))
    cpus = [first if frame.data[6:12] == talk.client.mac else second for frame in talk.frames]
    assert len(set(cpus)) == 2
    with running(network[0], tmp_path, *THREATS, "--workers", "2") as run, wire(network) as source:
        send(source, talk.frames, cpus)
        wait_until_received(network[0], len(talk.frames))
        assert run.stop() == 0
    assert_whole(run, tmp_path, talk)


@pytest.mark.parametrize("victim", ["sensor-worker", "sensor-recall"])
def test_a_process_is_killed_in_the_middle(network: Network, tmp_path: Path, victim: str) -> None:
    """The kernel's memory and the rings outlive it, and its successor goes on."""
    [talk] = attacks(1)
    hit = hit_of(talk)
    with running(network[0], tmp_path, *THREATS) as run, wire(network) as source:
        send(source, talk.frames[:hit])
        for pid in children(run.process.pid, victim):
            os.kill(pid, signal.SIGKILL)
        send(source, talk.frames[hit : hit + 1])
        for pid in children(run.process.pid, victim):
            os.kill(pid, signal.SIGKILL)
        wait_for_match()
        send(source, talk.frames[hit + 1 :])
        wait_until_received(network[0], len(talk.frames))
        wait_until(lambda: ask(METRICS).total(c.RECALLED), every_s=0.05)
        assert run.stop() == 0
    assert_whole(run, tmp_path, talk)


def test_capture_goes_on_while_the_search_stands_still(network: Network, tmp_path: Path) -> None:
    """A recaller that does not answer is replaced, and its successor is asked again."""
    [talk] = attacks(1)
    with running(network[0], tmp_path, *THREATS) as run, wire(network) as source:
        [pid] = children(run.process.pid, "sensor-recall")
        os.kill(pid, signal.SIGSTOP)
        send(source, talk.frames)
        wait_for_match()
        wait_until(lambda: ask(METRICS).total(c.RECALLED), every_s=0.1)
        assert run.stop() == 0
    assert any("stalled" in line for line in run.log)
    assert_whole(run, tmp_path, talk)


def test_the_supervisor_is_killed_in_the_middle(network: Network, tmp_path: Path) -> None:
    """The frames kept until then are found, and are not said to be complete."""
    [talk] = attacks(1)
    hit = hit_of(talk)
    with running(network[0], tmp_path, *THREATS) as run, wire(network) as source:
        send(source, talk.frames[: hit + 1])
        wait_for_match()
        wait_until(lambda: ask(METRICS).total(c.RECALLED), every_s=0.02)
        run.process.kill()
        run.process.wait()
    with running(network[0], tmp_path, *THREATS) as run:
        [found] = conversations(tmp_path)
        assert run.stop() == 0
    assert kept(run) == {frame.data: 1 for frame in talk.frames[: hit + 1]}
    assert not found["complete"]


def test_a_match_beyond_the_cut_off(network: Network, tmp_path: Path) -> None:
    """The beginning and what follows the match are kept; the conversation says what it lacks."""
    talk = TcpConversation(Random(5), START_US, notable.desk(Random(5)), notable.server(81), 80)
    for _ in range(30):
        talk.send(talk.client, http_request("GET /", "www.example", f"X: {'a' * 1300}"))
    talk.send(talk.client, SQL_INJECTION.request)
    hit = len(talk.frames) - 1
    talk.send(talk.server, SQL_INJECTION.response)
    talk.close()
    with running(network[0], tmp_path, *THREATS) as run, wire(network) as source:
        send(source, talk.frames[: hit + 1])
        wait_for_match()
        send(source, talk.frames[hit + 1 :])
        wait_until_received(network[0], len(talk.frames))
        assert run.stop() == 0
    assert_law(run)
    found = kept(run)
    begin = [frame.data for frame in talk.frames if frame.data in found]
    early = next(i for i, frame in enumerate(talk.frames) if frame.data not in found)
    assert 10 < early < 25
    assert begin == [frame.data for frame in (*talk.frames[:early], *talk.frames[hit:])]
    [one] = conversations(tmp_path)
    assert (one["complete"], one["ended"], one["missing"]) == (False, "fin", ["cut_off"])


def test_two_connections_of_the_same_endpoints(network: Network, tmp_path: Path) -> None:
    """The end of the first conversation does not end the following of the second."""
    [talk] = attacks(1)
    hit = hit_of(talk)
    with running(network[0], tmp_path, *THREATS) as run, wire(network) as source:
        send(source, talk.frames)
        wait_for_match()
        again = [Frame(frame.time_us, frame.data[:-1] + b"!") for frame in talk.frames]
        send(source, again[: hit + 1])
        wait_for_match(2)
        send(source, again[hit + 1 :])
        wait_until_received(network[0], 2 * len(talk.frames))
        assert run.stop() == 0
    assert_law(run)
    frames = kept(run)
    assert [frames[frame.data] for frame in (*talk.frames, *again)] == [1] * 2 * len(talk.frames)
    assert [one["ended"] for one in conversations(tmp_path)] == ["fin", "fin"]
