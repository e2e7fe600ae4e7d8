"""The prefilter's decisions for the frames of a capture. Runs in ``sensor bench kernel --capture``."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sensor import abi
from sensor.capture.plan_maps import KernelPlan
from sensor.capture.program import Program, ProgramOptions, check_privileges
from sensor.capture.syscalls import prog_test_run
from sensor.config.settings import Settings
from sensor.errors import CaptureFileError
from sensor.files.capture_file import CaptureFile
from sensor.live.program_options import options_of
from sensor.model import LinkType
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.ready import make_ready

NOT_CONNECTED = abi.Counter.SUBMIT_FAILED
"""The bucket of candidates in a measurement, where no ring is connected."""

_LONGEST_FRAME = 3500
"""Approximately the longest frame ``BPF_PROG_TEST_RUN`` accepts for a program of a single buffer."""


def count_decisions(rules: Path, capture: Path) -> dict[str, Any]:
    """Run the program over a capture's frames, and count those that reach Python and those ignored.

    Frames follow each other as fast as possible, so flows do not time out.

    Raises:
        CaptureFileError: the file cannot be read, or its frames are not Ethernet.
        RulesError: a rule is wrong.
        PrivilegeError: root or a capability is missing.
        KernelError: the kernel refused the program.
    """
    check_privileges()
    with CaptureFile(capture) as file, closing(Program(*default_program(rules))) as program:
        before, too_long = program.counters(), 0
        for frame in _frames(file, capture):
            if len(frame) > _LONGEST_FRAME:
                too_long += 1
            else:
                prog_test_run(program.fd, frame)
        buckets = frames_by_bucket(program, before)
    total = sum(buckets.values())
    candidates = buckets.pop(NOT_CONNECTED, 0) + buckets.pop(abi.Counter.SUBMITTED, 0)
    return {
        "capture": str(capture),
        "frames": total,
        "candidates": candidates,
        "share": round(candidates / total, 4) if total else None,
        "ignored": {
            counter.name.removeprefix("IGNORED_").lower(): buckets[counter] for counter in sorted(buckets)
        },
        "too_long": too_long,
    }


def default_program(rules: Path) -> tuple[KernelPlan, ProgramOptions]:
    """Return the plan for a set of rules, and the options of ``sensor run`` with default settings."""
    return make_ready(rules, RFC9110, lenient=False).plan, options_of(Settings(), frags=False)


def frames_by_bucket(program: Program, before: dict[abi.Counter, tuple[int, int]]) -> Tally[abi.Counter]:
    """Return the number of frames in each bucket since the counters were ``before``."""
    after = program.counters()
    buckets = Tally({counter: after[counter][0] - before[counter][0] for counter in abi.Counter})
    del buckets[abi.Counter.SEEN]
    return +buckets


def _frames(file: CaptureFile, path: Path) -> Iterator[bytes]:
    for batch in file.batches():
        if batch.linktype != LinkType.ETHERNET:
            raise CaptureFileError(f"{path}: link type {batch.linktype}; XDP sees only Ethernet frames")
        for start, caplen in zip(batch.start.tolist(), batch.caplen.tolist(), strict=True):
            yield bytes(batch.buffer[start : start + caplen])
