"""Verdicts of user space on a flow: ignore the rest of it, or submit every frame."""

from __future__ import annotations

import time

import pytest
from flow_packets import (
    CANDIDATE,
    CUT,
    HIGH,
    LOW,
    ONE_SET,
    Open,
    bucket,
    buckets,
    key4,
    packet4,
    packets,
    wait,
)
from live import PASS_ALL

from sensor.abi import Counter, Verdict

pytestmark = pytest.mark.kernel


def test_a_flow_that_is_done_is_ignored(load: Open) -> None:
    """Even its HTTP is ignored. Other flows are not, nor is this one once the verdict is withdrawn."""
    program, http = load(), packet4(payload=b"GET /index.html HTTP/1.1")
    assert not program.set_verdict(key4(), Verdict.DONE)
    assert bucket(program, packet4()) == CANDIDATE
    assert program.set_verdict(key4(), Verdict.DONE)
    assert buckets(program, http, 2) == [CUT] * 2
    assert bucket(program, packet4(1)) == CANDIDATE
    assert program.set_verdict(key4(), Verdict.NONE)
    assert bucket(program, packet4()) == CANDIDATE
    assert packets(program, key4()) == 4


def test_a_flow_is_followed_for_a_number_of_frames(load: Open) -> None:
    """Frames beyond the depth and without payload are candidates; another verdict starts the number again."""
    program, ack = load(depth=1), packet4(payload=b"")
    later = time.monotonic_ns() + 3600 * 10**9
    assert buckets(program, packet4(), 2) == [CANDIDATE, CUT]
    for frames in (3, 2):
        assert program.set_verdict(key4(), Verdict.FOLLOW, frames=frames, until_ns=later)
        sent = [packet4(), ack, packet4(443, 40000, source=HIGH, destination=LOW)][:frames]
        assert [bucket(program, frame) for frame in sent] == [CANDIDATE] * frames
        assert bucket(program, ack) == Counter.IGNORED_NO_PAYLOAD
        assert bucket(program, packet4()) == CUT
    assert bucket(program, packet4(1, payload=b"")) == Counter.IGNORED_NO_PAYLOAD


def test_a_flow_is_followed_up_to_a_time(load: Open) -> None:
    """Following ends at that time, however many frames are left."""
    program = load(depth=1)
    bucket(program, packet4())
    until = time.monotonic_ns() + 200_000_000
    assert program.set_verdict(key4(), Verdict.FOLLOW, frames=1 << 30, until_ns=until)
    followed = bucket(program, packet4()), time.monotonic_ns() < until
    assert followed in ((CANDIDATE, True), (CUT, False))
    while time.monotonic_ns() <= until:
        time.sleep(0.001)
    assert bucket(program, packet4()) == CUT


def test_a_verdict_ends_with_its_flow(load: Open) -> None:
    """A flow that was replaced starts again without a verdict, and so does the flow in its place."""
    program = load(flows=ONE_SET)
    bucket(program, packet4())
    assert program.set_verdict(key4(), Verdict.DONE)
    for port in range(1, ONE_SET + 1):
        wait(0)
        assert bucket(program, packet4(port)) == CANDIDATE
    assert program.flow(key4()) is None
    assert buckets(program, packet4(), 2) == [CANDIDATE] * 2


def test_flows_and_verdicts_outlive_a_change_of_rules(load: Open) -> None:
    """The new program uses the same table."""
    program = load(depth=4)
    buckets(program, packet4(), 3)
    bucket(program, packet4(1))
    program.set_verdict(key4(1), Verdict.DONE)
    program.use(program.compile(PASS_ALL))
    assert buckets(program, packet4(), 2) == [CANDIDATE, CUT]
    assert bucket(program, packet4(1)) == CUT
