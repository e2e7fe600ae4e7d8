"""The cost per frame of reading a capture file, start-up excluded. Runs in ``sensor bench read``."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

from sensor.bench.machine import figure, machine
from sensor.config.settings import Settings
from sensor.files.capture_file import CaptureFile
from sensor.pipeline import Pipeline
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.profile import PROFILES
from sensor.rules.prefilter.networks import Networks
from sensor.rules.ready import make_ready

REPEATS, QUICK_REPEATS = 7, 3
LEAST_S = 0.2
"""CPU time of one measurement: the kernel divides it into user and system time by samples of 1 to 10 ms."""


def measure(path: Path, settings: Settings, *, quick: bool) -> dict[str, Any]:
    """Read the file and match every frame several times; nothing is written.

    A first pass, which is not measured, brings the file into the page cache.

    Raises:
        CaptureFileError: the file cannot be read.
        RulesError: a rule is wrong.
    """
    matcher = make_ready(settings.rules, PROFILES[settings.profile].http, lenient=settings.lenient).matcher
    where = machine()
    _read(path, settings, matcher)
    passes = [_read(path, settings, matcher) for _ in range(QUICK_REPEATS if quick else REPEATS)]
    pipeline = passes[-1][0]
    frames = max(pipeline.read, 1)
    user_us = figure([user_s / frames * 1e6 for _, user_s, _ in passes], 3)
    frames_s = figure([pipeline.read / wall_s for _, _, wall_s in passes], 0)
    return {
        "bench": "read",
        "machine": where,
        "capture": str(path),
        "frames": pipeline.read,
        "matched": pipeline.matched,
        "user_us_per_frame": user_us["median"],
        "user_us_per_frame_spread": user_us,
        "frames_per_second": frames_s["median"],
        "frames_per_second_spread": frames_s,
    }


def _read(path: Path, settings: Settings, matcher: Matcher) -> tuple[Pipeline, float, float]:
    """Read the file, a short one several times.

    Returns the pipeline with its counts, and the user CPU seconds and wall seconds of reading it once.
    """
    networks = Networks(settings.networks_include, settings.networks_exclude)
    rounds, user_s, start_s, start_cpu_s = 0, _user_s(), time.monotonic(), time.process_time()
    while not rounds or time.process_time() - start_cpu_s < LEAST_S:
        pipeline = Pipeline(matcher, settings.keep, settings.profile, live=False, networks=networks)
        with CaptureFile(path) as file:
            for batch in file.batches():
                pipeline.process(batch)
        rounds += 1
    return pipeline, (_user_s() - user_s) / rounds, (time.monotonic() - start_s) / rounds


def _user_s() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime
