"""``sensor run``: the supervisor; loads and attaches the program, reads, matches, writes.

One loop: every ring in turn, a bounded batch at a time, and between two rounds whatever
time asks for. Rotation, status and signals therefore never wait behind the traffic for
longer than a batch of each ring.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.capture.link import Interface, attached, find_interface, ready_interface
from sensor.capture.program import Program, check_privileges
from sensor.capture.ring import RingSet
from sensor.config import Keep, Settings
from sensor.counters import Counters
from sensor.errors import EvidenceError, InterfaceError, SettingsError
from sensor.evidence.store import EvidenceWriter
from sensor.evidence.suppress import Suppressor
from sensor.model import Evidence
from sensor.pipeline import Pipeline
from sensor.reload import Reloader, load_and_log
from sensor.report import counters_line
from sensor.rules.load import RuleSet
from sensor.rules.plan import pass_all, plan_rules

IDLE_WAIT_MS = 5
"""Bounds the delay of a frame that waits in a ring that is not filling."""
ROTATION_NS = 200_000_000
STATUS_NS = 1_000_000_000
CLOCK_JUMP_NS = 1_000_000_000

log = logging.getLogger(__name__)

Emit = Callable[[list[Evidence]], None]
ShowStatus = Callable[[Counters, int], None]
"""Takes a snapshot and the bytes seen so far."""


def run(settings: Settings, emit: Emit, show_status: ShowStatus | None) -> None:
    """Capture until a signal, the set duration, or an interface that goes away; log the final counters.

    Everything that can be refused is tried before the program is attached.

    Raises:
        SettingsError: No interface was named.
        RulesError: A rule is wrong.
        PrivilegeError: Root or a capability is missing.
        InterfaceError: An interface is not ready, or went away.
        KernelError: The kernel refused program, map or ring.
        EvidenceError: Evidence cannot be written, or some could not be.
    """
    if not settings.interface:
        raise SettingsError("no interface: name one with -i, for example: sensor run -i eth1")
    rules = load_and_log(settings.rules, lenient=settings.lenient)
    check_privileges()
    interfaces = [ready_interface(name, settings.mode) for name in dict.fromkeys(settings.interface)]
    with ExitStack() as stack:
        capture = Capture(settings, rules, stack)
        stop = _handle_signals(settings.duration, capture.reloader)
        with ExitStack() as attachments:
            for interface in interfaces:
                attachments.enter_context(attached(capture.program.fd, interface, settings.mode))
            names = ", ".join(interface.name for interface in interfaces)
            log.info("capturing on %s (%s mode) with %d rules", names, settings.mode, len(rules))
            gone = _loop(capture, interfaces, stop, emit, show_status)
        while capture.step(emit):  # detached: what is in the rings is all there will be
            pass
        counters = replace(capture.counters(), in_ring=capture.rings.waiting())
    for path in capture.writer.paths:
        log.info("evidence: %s", path)
    log.info("counters: %s", counters_line(counters))
    if gone:
        raise gone
    if counters.write_failed:
        raise EvidenceError(
            f"{counters.write_failed} matched frames could not be written to {settings.evidence}; see the log"
        )


class Capture:
    """Everything between the rings and the evidence files."""

    def __init__(self, settings: Settings, rules: RuleSet, stack: ExitStack) -> None:
        """Open all of it; the stack closes it."""
        self._settings = settings
        writer = EvidenceWriter(settings.evidence, settings.devid, local_time=settings.local_time)
        self.writer = stack.enter_context(closing(writer))
        for recovery in writer.recovered:
            log.warning("%s", recovery)
        log.info("compiling %d rules", len(rules))
        self.pipeline = Pipeline(rules, settings.keep, settings.profile)
        self.reloader = Reloader(settings.rules, self.pipeline.matcher.http, lenient=settings.lenient)
        self.suppressor = Suppressor(settings.suppress_above)
        program = Program(_plan(rules, settings.keep), snaplen=settings.snaplen, action=settings.action)
        self.program = stack.enter_context(closing(program))
        self.rings = stack.enter_context(closing(RingSet(settings.ring_mib << 20)))
        for ring in self.rings.rings:
            program.connect(ring)

    def step(self, emit: Emit) -> bool:
        """Take one batch of each ring to the end; whether there was any."""
        busy = False
        for batch in self.rings.batches():
            busy = True
            pieces = self.suppressor.admit(self.pipeline.process(batch))
            if pieces:
                self.writer.write(pieces)
                emit(pieces)
        return busy

    def reload(self) -> None:
        """Put a new rule set in force where one has been finished; between two batches."""
        compiled = self.reloader.take()
        if compiled is None:
            return
        rules, matcher = compiled
        self.program.use_plan(_plan(rules, self._settings.keep))
        self.pipeline.matcher = matcher
        log.info("%d rules in force (%s)", len(rules), rules.digest[:12])

    def counters(self) -> Counters:
        """Take a snapshot; what is in the rings is inferred, since frames keep arriving."""
        kernel = {counter: frames for counter, (frames, _) in self.program.counters().items()}
        return Counters(
            seen=kernel[abi.Counter.SEEN],
            ignored={c.name.removeprefix("IGNORED_").lower(): kernel[c] for c in abi.IGNORED},
            submitted=kernel[abi.Counter.SUBMITTED],
            submit_failed=kernel[abi.Counter.SUBMIT_FAILED],
            in_ring=max(0, kernel[abi.Counter.SUBMITTED] - self.pipeline.read),
            read=self.pipeline.read,
            undecodable=self.pipeline.undecodable,
            unmatched=self.pipeline.unmatched,
            matched=self.pipeline.matched,
            written=self.writer.written,
            suppressed=self.suppressor.suppressed,
            write_failed=self.writer.write_failed,
        )


def _plan(rules: RuleSet, keep: Keep) -> NDArray[np.void]:
    """What the kernel may ignore: nothing that carries payload where flows are kept, whatever the rules."""
    return pass_all() if keep == "flow" else plan_rules(rules)


class _Every:
    """A timer that is asked."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._due_ns = time.monotonic_ns() + period_ns

    def is_due(self) -> bool:
        now_ns = time.monotonic_ns()
        if now_ns < self._due_ns:
            return False
        self._due_ns = now_ns + self._period_ns
        return True


def _loop(
    capture: Capture,
    interfaces: list[Interface],
    stop: Callable[[], bool],
    emit: Emit,
    show_status: ShowStatus | None,
) -> InterfaceError | None:
    """Capture until told to stop (None), or until an interface is gone (the error to end with)."""
    rotation, status = _Every(ROTATION_NS), _Every(STATUS_NS)
    while not stop():
        if not capture.step(emit):
            capture.rings.wait(IDLE_WAIT_MS)
        if rotation.is_due():
            capture.reload()
            capture.writer.tick(time.time_ns())
        if status.is_due():
            if show_status:
                show_status(capture.counters(), capture.program.counters()[abi.Counter.SEEN][1])
            _follow_clock(capture.rings)
            try:
                interfaces = [_still_there(interface) for interface in interfaces]
            except InterfaceError as error:
                return error
    return None


def _follow_clock(rings: RingSet) -> None:
    moved_ns = rings.clock.remeasure()
    if abs(moved_ns) > CLOCK_JUMP_NS:
        log.warning("the wall clock jumped by %+.3f s; evidence follows it", moved_ns / 1e9)


def _still_there(before: Interface) -> Interface:
    """The interface as it is now.

    Raises:
        InterfaceError: It is gone, or another one has taken its name: nothing is captured there any more.
    """
    now = find_interface(before.name)
    if now.index != before.index:
        raise InterfaceError(f"{before.name}: was removed and created anew; start sensor again")
    if now.has_carrier != before.has_carrier:
        log.warning("%s: carrier %s", now.name, "is back" if now.has_carrier else "lost, nothing arrives")
    return now


def _handle_signals(duration_s: float | None, reloader: Reloader) -> Callable[[], bool]:
    """Reload at SIGHUP; give a question that turns true at SIGINT, SIGTERM, or after the duration.

    The handlers stay to the end of the process: no second signal may break off the closing of files.
    """
    deadline_ns = time.monotonic_ns() + int(duration_s * 1e9) if duration_s else None
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            reloader.request()
        else:
            received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, note)
    return lambda: bool(received) or (deadline_ns is not None and time.monotonic_ns() >= deadline_ns)
