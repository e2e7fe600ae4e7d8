"""``sensor bench ring``: how fast candidates come through the rings, alone and through the matcher; as root.

Frames are made in the kernel and cross a veth pair in a network namespace that nothing else is in.
Making them takes CPU time here that a network card would spare: every rate is one of a machine that
sends, too.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from sensor.bench import probe_frames
from sensor.bench.effort import FULL, QUICK, Step
from sensor.bench.frame_generator import Generator
from sensor.bench.machine import machine
from sensor.bench.matched_rate import measure_through
from sensor.bench.private_network import private_network, veth_pair
from sensor.bench.ring_reading import measure_reading
from sensor.capture.attachment import find_interface
from sensor.capture.program import check_privileges
from sensor.capture.ring import online_cpus
from sensor.protocols import UDP
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.ready import make_ready

PAYLOAD = (b"The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 6)[:400]
DNS = 53
"""Our own rules look at everything that goes to this port."""

_MIRROR, _SOURCE = "mirror", "source"


def measure(rules: Path, *, quick: bool, step: Step) -> dict[str, Any]:
    """Measure reading, ours and BCC's, and the whole way with these rules; ``step`` is told what comes next.

    Raises:
        RulesError: A rule is wrong.
        PrivilegeError: Root or a capability is missing.
        KernelError: The kernel refused program, map or ring.
        SensorError: The rules do not ask for the frames that are sent.
    """
    check_privileges()
    effort = QUICK if quick else FULL
    where = machine()
    step("compiling the rules, unless that was done before")
    ready = make_ready(rules, RFC9110, lenient=False)
    frame = probe_frames.ipv4(UDP, probe_frames.udp(PAYLOAD, DNS))
    cpus = online_cpus()
    with private_network():
        veth_pair(_MIRROR, _SOURCE, len(cpus))
        mirror, source = find_interface(_MIRROR), find_interface(_SOURCE)
        with closing(Generator(source.index, frame, cpus)) as generator:
            reading = measure_reading(generator, mirror, effort, step)
        through = measure_through(ready, frame, (mirror, source), effort, step)
    return {"machine": where, "frame_bytes": len(frame), "reading": reading, "through_match": through}
