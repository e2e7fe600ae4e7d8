"""The kernel's history: recent frames of each flow up to a cut-off, overwritten but never torn."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from flow_packets import CANDIDATE, HIGH, LOW, Open, buckets, key4, packet4
from frames import IPV4, TCP, ethernet, ipv4, tcp
from numpy.typing import NDArray

from sensor import abi
from sensor.abi import HistoryFate, Verdict
from sensor.capture.cpus import online_cpus
from sensor.capture.history import CpuHistory
from sensor.capture.program import Program
from sensor.capture.syscalls import prog_test_run
from sensor.native.frame_history import HistoryEnd, HistoryFrames, HistoryReader

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("not __import__('sensor.capture.history').capture.history.is_supported()"),
]
LATER_NS = 1 << 62


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[None]:
    """Let all frames of a test arrive on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def remembering(load: Open, **options: int) -> tuple[Program, CpuHistory]:
    """Load the program with a history; return it, and the history of the CPU that this test runs on."""
    program = load(**{"history_mib": 1, **options})
    assert program.history
    program.history.add(online_cpus())
    [cpu] = os.sched_getaffinity(0)
    return program, next(one for one in program.history.mapped() if one.cpu == cpu)


def found(program: Program, history: CpuHistory, port: int = 40000) -> HistoryFrames:
    """Return what the history has of the flow of `packet4` with a port."""
    return HistoryReader(history.chunks, history.heads).collect(program.flow_hash(key4(port)))


def frames_of(history: HistoryFrames) -> list[bytes]:
    """Return the frames as they were sent."""
    return [
        history.data[record["start"] : record["start"] + record["caplen"]].tobytes()
        for record in history.records
    ]


def fates(program: Program) -> list[int]:
    """Return how many frames had each `HistoryFate`."""
    counted: NDArray[np.uint64] = program.counters_by_cpu()["history"].sum(axis=(0, 1))
    return counted.tolist()


def test_a_flow_is_remembered_in_both_directions(load: Open) -> None:
    """Handshake, requests, answers and frames without payload, in order, and no frame of another flow."""
    program, history = remembering(load)
    sent = [
        packet4(payload=b""),
        packet4(payload=b"GET / HTTP/1.1"),
        packet4(443, 40000, source=HIGH, destination=LOW, payload=b"HTTP/1.1 200 OK"),
        packet4(payload=b""),
    ]
    for frame in sent:
        prog_test_run(program.fd, packet4(1, payload=b"another flow"))
        prog_test_run(program.fd, frame)
    remembered = found(program, history)
    assert remembered.end == HistoryEnd.WHOLE
    assert frames_of(remembered) == sent
    assert np.all(np.diff(remembered.records["time_ns"].astype(np.int64)) > 0)


def test_nothing_is_remembered_beyond_the_cut_off(load: Open) -> None:
    """The frame that reaches the cut-off is whole; an acknowledgement after it is not remembered either."""
    program, history = remembering(load, history_flow_kib=2)
    data = packet4(payload=bytes(1000))
    for _ in range(6):
        prog_test_run(program.fd, data)
    prog_test_run(program.fd, packet4(payload=b""))
    remembered = frames_of(found(program, history))
    assert remembered == [data] * 3, "the first one does not count: the flow is in the table from then on"
    assert fates(program)[HistoryFate.BEYOND] == 4


def test_the_oldest_frames_are_overwritten(load: Open) -> None:
    """However long it runs, each frame that is found is one that was sent, and the newest ones are there."""
    program, history = remembering(load, history_flow_kib=1 << 20)
    sent = [packet4(payload=number.to_bytes(4, "big") * 350) for number in range(2000)]
    for frame in sent:
        prog_test_run(program.fd, frame)
    remembered = found(program, history)
    kept = frames_of(remembered)
    assert remembered.end == HistoryEnd.OVERWRITTEN
    assert kept == sent[-len(kept) :]
    assert len(kept) * len(sent[0]) > (1 << 20) - 2 * abi.HISTORY_CHUNK_BYTES
    assert history.reach_s() > 0


def test_long_frames(load: Open) -> None:
    """Longer ones than most are whole as well; those beyond the snapshot length are cut."""
    program, history = remembering(load, history_flow_kib=1 << 20, snaplen=3000)
    sent = [packet4(payload=bytes(size)) for size in (1500, 2500, 3200, 1, 2100)]
    for frame in sent:
        prog_test_run(program.fd, frame)
    remembered = found(program, history)
    assert frames_of(remembered) == [frame[:3000] for frame in sent]
    assert remembered.records["wirelen"].tolist() == [len(frame) for frame in sent]


def test_frames_of_flows_that_no_rule_can_match_are_not_remembered(load: Open) -> None:
    """They cannot be the context of a match."""
    program, history = remembering(load)
    prog_test_run(program.fd, ethernet(0x0806, bytes(46)))
    assert fates(program) == [0, 0, 0]
    assert not int.from_bytes(history.heads[:8], "little")


def test_a_followed_flow_is_submitted_and_remembered(load: Open) -> None:
    """If its conversation has ended, the frames may be the beginning of the next one."""
    program, history = remembering(load)
    sent = [packet4(payload=b"before"), packet4(payload=b"")]
    prog_test_run(program.fd, sent[0])
    assert program.set_verdict(key4(), Verdict.FOLLOW, frames=10, until_ns=LATER_NS)
    assert buckets(program, sent[1], 2) == [CANDIDATE] * 2
    assert frames_of(found(program, history)) == [*sent, sent[1]]
    assert program.counters_by_cpu()["followed"].sum() == 2


def test_a_frame_that_the_kernel_cannot_parse_is_remembered_without_a_flow(load: Open) -> None:
    """User space looks for the inner packet of a tunnel."""
    program, history = remembering(load)
    tunnel = ethernet(IPV4, ipv4(47, bytes.fromhex("00000800") + ipv4(TCP, tcp(b"inner"))))
    prog_test_run(program.fd, tunnel)
    assert frames_of(HistoryReader(history.chunks, history.heads).collect(0)) == [tunnel]


def test_without_a_history_for_its_cpu_a_frame_is_counted(load: Open) -> None:
    """A CPU that came up later has none."""
    program = load(history_mib=1)
    prog_test_run(program.fd, packet4())
    assert fates(program) == [0, 0, 1]
