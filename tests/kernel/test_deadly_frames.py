"""Frames that kill or hang workers are found and put aside, one by one; their neighbours are matched."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from worker_site import RING_BYTES, Site, assert_each_once, pipeline

import sensor.live.stall_detector
import sensor.live.worker_pool
from sensor.capture.cpus import online_cpus
from sensor.evidence.batch_report import BatchReport
from sensor.live.heartbeat import Heartbeat
from sensor.live.report_channel import Kind, ReportChannel
from sensor.model import FrameBatch
from sensor.pipeline import Pipeline, Turn
from sensor.rules.engine.matcher import Matches, Payloads

pytestmark = pytest.mark.kernel

CPU = online_cpus()[0]


def die() -> None:
    """Kill this process, as a bug in a library might."""
    os.kill(os.getpid(), signal.SIGKILL)


def is_in(text: bytes, batch: FrameBatch) -> bool:
    """Return True if a frame of the batch ends with the text."""
    ends = (batch.start + batch.caplen).tolist()
    return any(batch.buffer[end - len(text) : end] == text for end in ends)


class Deadly(Pipeline):
    """A pipeline that kills the process at certain frames, before it has looked at one."""

    def turns(self, batch: FrameBatch, turn_ns: int = 0) -> Iterator[Turn]:
        """Match the batch, or kill the process."""
        if is_in(b"deadly", batch):
            die()
        return super().turns(batch, turn_ns)


class DeadlyMatching(Pipeline):
    """A pipeline that kills the process while it matches certain payloads."""

    def _match(self, batch: FrameBatch, payloads: Payloads, stop_ns: int) -> Matches:
        """Match the payloads, or kill the process."""
        for start, end in zip(payloads.start.tolist(), payloads.end.tolist(), strict=True):
            self.matcher.batch_matcher._place[0] = start
            if bytes(batch.buffer[start:end]).endswith(b"deadly"):
                die()
        return super()._match(batch, payloads, stop_ns)


class Looping(Pipeline):
    """A pipeline that never comes back from certain frames, and uses CPU time."""

    def turns(self, batch: FrameBatch, turn_ns: int = 0) -> Iterator[Turn]:
        """Match the batch, or loop for ever."""
        while is_in(b"deadly", batch):
            pass
        return super().turns(batch, turn_ns)


class Waiting(Pipeline):
    """A pipeline that waits at certain frames, and uses no CPU time."""

    def turns(self, batch: FrameBatch, turn_ns: int = 0) -> Iterator[Turn]:
        """Match the batch, or wait for ever."""
        while is_in(b"deadly", batch):
            signal.pause()
        return super().turns(batch, turn_ns)


class Beating(Pipeline):
    """A pipeline that never comes back from certain frames, with signs of life all the time."""

    def turns(self, batch: FrameBatch, turn_ns: int = 0) -> Iterator[Turn]:
        """Match the batch, or beat for ever."""
        while is_in(b"deadly", batch):
            self.beat()
        return super().turns(batch, turn_ns)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check workers often, and let them hang only for a moment."""
    monkeypatch.setattr(sensor.live.worker_pool, "CHECK_S", 0.05)
    monkeypatch.setattr(sensor.live.stall_detector, "MOST_SILENT_NS", 200_000_000)
    monkeypatch.setattr(sensor.live.stall_detector, "MOST_UNREPORTED_NS", 400_000_000)


@pytest.mark.parametrize("before", [0, 1, 2, 3, 1000])
@pytest.mark.parametrize("after", [0, 1, 1000])
def test_a_deadly_frame_is_put_aside(site: Site, before: int, after: int) -> None:
    """Its neighbours are matched, and other rings meanwhile; none of them is lost or counts twice."""
    busy = online_cpus()[-1]
    site.feed(CPU, before)
    site.feed(CPU, end=b"deadly")
    site.feed(CPU, after)
    pool = site.start_workers(pipeline(Deadly), workers=1)
    while not site.quarantined:
        site.feed(busy)
        site.add(pool.receive(0.01))
    assert pool.restarts <= 3 + (before + after).bit_length()
    site.add(pool.drain())
    assert site.quarantined[0].data.endswith(b"number %d deadly" % before)
    assert_each_once(site, missing=1)


def test_signs_of_life_shorten_the_search(site: Site) -> None:
    """If it is known which payload was matched, three workers die: one of many frames, two of one."""
    for _ in range(3):
        site.feed(CPU, 300)
        site.feed(CPU, end=b"deadly")
    site.feed(CPU, 300)
    pool = site.start_workers(pipeline(DeadlyMatching), workers=1)
    site.add(pool.drain())
    assert pool.restarts == 9
    assert_each_once(site, missing=3)


@pytest.mark.parametrize("place", [1, 1 << 63, RING_BYTES // 2])
def test_signs_of_life_that_lie(site: Site, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lengthen the search, and it ends at the same frame."""

    def beat(heartbeat: Heartbeat) -> None:
        heartbeat.place[0] = place

    monkeypatch.setattr(Heartbeat, "beat", beat)
    site.feed(CPU, 200)
    site.feed(CPU, end=b"deadly")
    site.feed(CPU, 100)
    site.add(site.start_workers(pipeline(Deadly), workers=1).drain())
    assert_each_once(site, missing=1)


def test_a_deadly_frame_without_signs_of_life(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """If workers die again and again and do not say of what, frames are suspected all the same."""
    monkeypatch.setattr(Heartbeat, "enter_ring", lambda *_: None)
    monkeypatch.setattr(sensor.live.worker_pool, "MOST_UNEXPLAINED_DEATHS", 3)
    site.feed(CPU, 20)
    site.feed(CPU, end=b"deadly")
    site.feed(CPU, 20)
    site.add(site.start_workers(pipeline(Deadly), workers=1).drain())
    assert_each_once(site, missing=1)


def test_many_deadly_frames(site: Site) -> None:
    """One after the other and mixed with others; on all rings at once, with two workers."""
    for cpu in online_cpus():
        site.feed(cpu, 3, end=b"deadly")
        site.feed(cpu, 50)
        site.feed(cpu, 1, end=b"deadly")
    site.add(site.start_workers(pipeline(DeadlyMatching), workers=2).drain())
    assert_each_once(site, missing=4 * len(online_cpus()))


def test_a_deadly_frame_at_the_edge_of_the_ring(site: Site) -> None:
    """A record that wraps around is put aside as a whole."""
    pool = site.start_workers(pipeline(Deadly), workers=1)
    ring = next(ring for ring in site.rings.rings if ring.cpu == CPU)
    site.feed(CPU)
    site.add_until(pool, lambda: site.read == site.fed)
    size = ring.head
    while ring.head + size <= RING_BYTES:
        site.feed(CPU)
        size = max(size, ring.head // site.fed)
        if not site.fed % 100:
            site.add_until(pool, lambda: site.read == site.fed)
    site.feed(CPU, end=b"deadly")
    site.feed(CPU, 10)
    assert ring.head > RING_BYTES
    site.add(pool.drain())
    assert site.quarantined[0].data.endswith(b"deadly")
    assert_each_once(site, missing=1)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", [Looping, Waiting, Beating])
def test_frames_that_hang_workers(site: Site, kind: type[Pipeline]) -> None:
    """Workers that hang at a frame are killed, however they hang, and the frame is put aside."""
    site.feed(CPU, 2)
    site.feed(CPU, end=b"deadly")
    site.feed(CPU, 2)
    site.add(site.start_workers(pipeline(kind), workers=1).drain())
    assert_each_once(site, missing=1)


def record(kind: int, size: int, rest: bytes = b"") -> bytes:
    """Return the start of a perf record: its header, and what follows."""
    return kind.to_bytes(4, "little") + bytes(2) + size.to_bytes(2, "little") + rest


NO_RECORDS = {
    "no size": record(9, 0),
    "an odd size": record(9, 257),
    "a sample without metadata": record(9, 8),
    "a frame longer than the ring": record(9, 64, (52).to_bytes(4, "little") + b"\x7f" * 32),
    "a frame longer than the largest number": record(9, 64, (52).to_bytes(4, "little") + b"\xff" * 32),
    "a record longer than what is there": record(9, 0xFFF8, (52).to_bytes(4, "little") + bytes(32)),
}


@pytest.mark.parametrize("start", NO_RECORDS.values(), ids=NO_RECORDS.keys())
def test_a_worker_that_leaves_its_ring_inside_a_record(
    site: Site, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of an attacker in place of records harm neither the supervisor nor later frames."""
    ring = next(ring for ring in site.rings.rings if ring.cpu == CPU)
    for padding in range(8):  # records start at multiples of eight
        site.feed(CPU, end=b"." * padding + b"MARK" + start)
    sent = np.frombuffer(ring._data, np.uint8).tobytes()
    places = [at for at in range(0, ring.head, 8) if sent[at - 4 : at] == b"MARK"]
    original = ReportChannel.send

    def send(channel: ReportChannel, kind: Kind) -> None:
        original(channel, kind)
        if kind is Kind.STARTED:
            channel.report(BatchReport(CPU, places[0], 0, 0, 0, 0, None))
            die()

    monkeypatch.setattr(ReportChannel, "send", send)
    pool = site.start_workers(pipeline(), workers=1)
    monkeypatch.undo()
    site.add_until(pool, lambda: pool.restarts and ring.tail == ring.head)
    assert all(len(frame.data) < ring.head for frame in site.quarantined)
    known, undecodable = len(site.found), site.undecodable
    site.feed(CPU, 20)
    site.add(pool.drain())
    assert site.rings.waiting() == 0
    assert (len(site.found), site.undecodable) == (known + 20, undecodable)
