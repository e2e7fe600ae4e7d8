"""A pool of real workers on real rings, for tests that disturb them.

BPF_PROG_TEST_RUN on a CPU puts frames into its ring, so no interface is needed.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from pathlib import Path

from frames import IPV4, UDP, ethernet, ipv4, udp
from live import PASS_ALL

from sensor.capture.cpus import online_cpus
from sensor.capture.program import Program
from sensor.capture.ring_set import RingSet
from sensor.capture.syscalls import prog_test_run
from sensor.evidence.batch_report import BatchReport
from sensor.evidence.explain_block import explained
from sensor.evidence.quarantine import QuarantinedFrame
from sensor.live.worker_pool import WorkerPool
from sensor.model import Rule
from sensor.pipeline import Pipeline
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.engine.matcher import Matcher

RULE = Rule(1, "threat", "t", "n", "number")
RING_BYTES = 1 << 20


def pipeline(kind: type[Pipeline] = Pipeline) -> Pipeline:
    """Return a pipeline with one rule that matches every packet of a flow."""
    return kind(Matcher([RULE]), "any", "thorough")


class Site:
    """A program with a ring on every CPU, and the sums of what its workers report."""

    def __init__(self, stack: ExitStack) -> None:
        self.program = stack.enter_context(closing(Program(PASS_ALL)))
        self.rings = stack.enter_context(closing(RingSet.open(RING_BYTES)))
        self.program.connect(self.rings.rings)
        self._stack = stack
        self.fed = self.read = self.undecodable = self.reports = 0
        self.quarantined: list[QuarantinedFrame] = []
        self.found: list[bytes] = []

    def start_workers(self, pipeline: Pipeline, workers: int) -> WorkerPool:
        """Start workers that are killed at the end of the test."""
        pool = WorkerPool(pipeline, self.rings.rings, workers, {socket.if_nametoindex("lo")})
        self._stack.callback(pool.kill)
        return pool

    def feed(self, cpu: int, count: int = 1, end: bytes = b"") -> None:
        """Put frames into the ring of a CPU; every frame has its own number."""
        os.sched_setaffinity(0, {cpu})
        for _ in range(count):
            payload = b"number %d %b" % (self.fed, end)
            prog_test_run(
                self.program.fd, ethernet(IPV4, ipv4(UDP, udp(payload, sport=self.fed % 60_000 + 1)))
            )
            self.fed += 1
        os.sched_setaffinity(0, online_cpus())

    def add(self, reports: Iterable[BatchReport]) -> None:
        """Add reports to the sums."""
        for report in reports:
            self.reports += 1
            self.read += report.read
            self.undecodable += report.undecodable
            if report.quarantined:
                self.quarantined.append(report.quarantined)
            if report.block:
                self.found += [item.payload for item in explained(report.block, RFC9110)]

    def add_until(self, pool: WorkerPool, holds: Callable[[], object]) -> None:
        """Add what the workers report until ``holds`` returns something true."""
        while not holds():
            self.add(pool.receive(0.01))

    def kill_worker(self, number: int = 0) -> None:
        """Kill a worker, as the kernel does when memory is short."""
        os.kill(self.workers[number], signal.SIGKILL)

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers, in order."""
        return [int(child) for child in Path("/proc/thread-self/children").read_text().split()]


def assert_each_once(site: Site, *, missing: int = 0) -> None:
    """Assert that every frame was read once, and all but ``missing`` became evidence once.

    Those that are missing are in quarantine.
    """
    assert site.read == site.fed
    assert site.undecodable == 0
    assert len(site.quarantined) == missing
    assert site.rings.waiting() == 0
    assert len(site.found) == len(set(site.found)) == site.fed - missing
