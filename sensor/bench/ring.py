"""The rates at which candidates are read from the rings, and matched. Runs in ``sensor bench ring``, as root.

Frames are generated in the kernel and cross a veth pair in a private network namespace. Generating them
takes CPU time that a network card would spare: every rate is that of a machine that also sends.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from sensor.bench import probe_frames
from sensor.bench.effort import RING_FULL, RING_QUICK, Step
from sensor.bench.frame_generator import FrameGenerator
from sensor.bench.machine import machine
from sensor.bench.matched_rate import measure_matched_rate
from sensor.bench.private_network import private_network, veth_pair
from sensor.bench.ring_reading import measure_reading
from sensor.capture.attachment import find_interface
from sensor.capture.cpus import online_cpus
from sensor.capture.program import check_privileges
from sensor.protocols import UDP
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.ready import make_ready

PAYLOAD = (b"The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 6)[:400]
DNS = 53
"""A port to which our own rules ask for every packet."""

_MIRROR, _SOURCE = "mirror", "source"


def measure(rules: Path, *, quick: bool, step: Step) -> dict[str, Any]:
    """Measure reading, with our reader and BCC's, and the whole way up to the matcher.

    Raises:
        RulesError: a rule is wrong.
        PrivilegeError: root or a capability is missing.
        KernelError: the kernel refused a program, map or ring.
        SensorError: no rule asks for the frames that are sent.
    """
    check_privileges()
    effort = RING_QUICK if quick else RING_FULL
    where = machine()
    step("compiling the rules, or loading them from the cache")
    ready = make_ready(rules, RFC9110, lenient=False)
    frame = probe_frames.ipv4(UDP, probe_frames.udp(PAYLOAD, DNS))
    cpus = online_cpus()
    with private_network():
        veth_pair(_MIRROR, _SOURCE, len(cpus))
        mirror, source = find_interface(_MIRROR), find_interface(_SOURCE)
        with closing(FrameGenerator(source.index, frame, cpus)) as generator:
            reading = measure_reading(generator, mirror, effort, step)
        matched = measure_matched_rate(ready, frame, (mirror, source), effort, step)
    return {"machine": where, "frame_bytes": len(frame), "reading": reading, "through_match": matched}
