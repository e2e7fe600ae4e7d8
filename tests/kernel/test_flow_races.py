"""CPUs that share the flow table: counts may get lost, but flows are never confused."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle, product
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import copytree

import pytest
from flow_packets import CANDIDATE, CUT, ONE_SET, Open, bucket, buckets, key4, packet4, packets, tag_of

from sensor.abi import Verdict
from sensor.capture import compiler
from sensor.capture.program import Program
from sensor.capture.syscalls import prog_test_run

pytestmark = pytest.mark.kernel

BPF = Path(__file__).parents[2] / "bpf"
BARRIER = 'asm volatile("" ::: "memory")'
WRITE = "(*(volatile __typeof__(x) *)&(x) = (value))"
PAUSE = "for (int i_ = 0; i_ < 64 && bpf_get_prandom_u32() % 16; i_++);"


@contextmanager
def hammered(program: Program, frame: bytes, cpus: Iterable[int], times: int) -> Iterator[list[BaseProcess]]:
    """Run the program on one frame continuously, on several CPUs at once, until the end of the block."""

    def hammer(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        prog_test_run(program.fd, frame, times)

    processes = [get_context("fork").Process(target=hammer, args=(cpu,)) for cpu in cpus]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.fixture
def cpus() -> Iterator[list[int]]:
    """Return the CPUs, at least two. At the end, the test process may use all of them again."""
    found = os.sched_getaffinity(0)
    if len(found) < 2:
        pytest.skip("races need two CPUs")
    yield sorted(found)
    os.sched_setaffinity(0, found)


def test_no_flow_is_cut_early_whatever_other_cpus_do(load: Open, cpus: list[int]) -> None:
    """A long flow and thousands of short ones replace each other in one set: no short one is ever cut."""
    depth, (own, *others) = 4, cpus
    program = load(flows=ONE_SET, depth=depth)
    os.sched_setaffinity(0, {own})
    with hammered(program, packet4(), others, 1 << 30) as processes:
        for number in range(1, 20_000):
            frame = packet4(source=f"10.0.{number >> 8}.{number & 255}")
            for _ in range(depth):
                prog_test_run(program.fd, frame)
        assert all(process.is_alive() for process in processes)
    by_cpu = program.counters_by_cpu()["buckets"]["frames"][0]
    assert by_cpu[own, CUT] == 0
    assert by_cpu[others, CUT].min() > 0
    assert by_cpu[others, CANDIDATE].min() > 100 * depth  # it was replaced all the time
    assert_sound(program)


def test_a_half_written_key_matches_no_flow(
    load: Open, cpus: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy flow keeps getting its own entry while entries that resemble it are replaced beside it.

    The kernel's code is changed to pause for random times between its steps.
    """
    source = tmp_path / "bpf"
    copytree(BPF, source)
    for file, step in (source / "packet.h", BARRIER), (source / "flow.h", WRITE):
        text = file.read_text()
        assert text.count(step) == 1
        file.write_text(text.replace(step, f"({{ {PAUSE} {step}; }})"))
    monkeypatch.setattr(compiler, "_SOURCE", source)
    program, (own, *others) = load(flows=ONE_SET), cpus
    os.sched_setaffinity(0, {own})
    alike = (f"192.{a}.{b}.10" for a, b in product(range(1, 256), repeat=2))  # the lower endpoint, like LOW
    done = next(one for one in alike if tag_of(program, key4(source=one)) == tag_of(program, key4()))
    with hammered(program, packet4(), others, 1 << 30) as processes:
        for _ in range(2000):
            prog_test_run(program.fd, packet4(source=done))
            program.set_verdict(key4(source=done), Verdict.DONE)
            for port in range(1, 2 * ONE_SET):
                prog_test_run(program.fd, packet4(port))
        assert all(process.is_alive() for process in processes)
    by_cpu = program.counters_by_cpu()["buckets"]["frames"][0]
    assert by_cpu[others, CUT].sum() == 0
    assert_sound(program)


def test_a_flow_on_several_cpus_has_no_more_packets_than_were_sent(load: Open, cpus: list[int]) -> None:
    """Simultaneous counts may get lost, and nothing else goes wrong."""
    program, times = load(), 2_000_000
    with hammered(program, packet4(), cpus, times) as processes:
        for process in processes:
            process.join()
            assert process.exitcode == 0
    assert times // 2 < packets(program, key4()) <= times * len(cpus)
    assert_sound(program)


def test_verdicts_are_set_while_packets_are_counted(load: Open, cpus: list[int]) -> None:
    """No count and no verdict is lost."""
    program, times = load(), 3_000_000
    bucket(program, packet4())
    with hammered(program, packet4(), cpus[:1], times) as [process]:
        for verdict in cycle((Verdict.DONE, Verdict.NONE)):
            assert program.set_verdict(key4(), verdict)
            flow = program.flow(key4())
            assert flow is not None
            assert flow.verdict == verdict
            if not process.is_alive():
                break
        assert process.exitcode == 0
    assert packets(program, key4()) == 1 + times


def assert_sound(program: Program) -> None:
    """Check that no writer is registered and no key half written, and that the table still works."""
    table = program._shared.flows._table
    assert not table["writers"].any()
    assert not (table["flows"]["version"] % 2).any()
    assert buckets(program, packet4(9, 9), 2) == [CANDIDATE] * 2
    assert packets(program, key4(9, 9)) == 2
