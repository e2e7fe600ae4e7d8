"""``sensor run``: start the supervisor and its workers, attach the program, capture, and stop in order.

Runs in the supervisor. Its one loop handles the workers' reports, and between two of them does what is due:
upkeep, status and signals never wait behind the traffic for longer than a batch.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from types import FrameType

from sensor import abi
from sensor.capture.attachment import Interface, check_interface, needs_frags
from sensor.capture.clock import WallClock
from sensor.capture.program import check_privileges
from sensor.capture.refusals import mixed_link_types
from sensor.config.settings import Settings
from sensor.errors import EvidenceError, InterfaceError, SettingsError
from sensor.events.sender import EventSender
from sensor.live.reload import Reloader
from sensor.live.service_manager import Notifier
from sensor.live.status_line import StatusLine
from sensor.live.supervisor import Supervisor
from sensor.process import sandbox
from sensor.rules.engine.profile import PROFILES
from sensor.rules.progress import Watch, unwatched
from sensor.rules.ready import make_ready
from sensor.text import count_of

WAIT_S = 0.05
"""Longest wait for reports; it bounds the delay of timers and signals."""
UPKEEP_NS = 200_000_000
"""Period of reloads, event sender, evidence files, child processes and metrics."""
CHECK_NS = 1_000_000_000
"""Period of checks: child processes, clock and interfaces."""
STATUS_NS, DRAWN_STATUS_NS = 2_000_000_000, 1_000_000_000
"""Period of status lines for a service manager, and on a terminal."""
CLOCK_JUMP_NS = 1_000_000_000

log = logging.getLogger(__name__)

ShowStatus = Callable[[str], None]


def run(settings: Settings, show_status: ShowStatus | None, *, as_json: bool) -> None:
    """Capture until a signal arrives, the duration is over, or the last port is lost; log the final counters.

    Everything that can fail is tried before the program is attached. ``as_json`` prints matches as JSON;
    ``show_status`` draws the status line on a terminal.

    Raises:
        SettingsError: No interface is named, or a receiver of events cannot be used.
        RulesError: A rule is wrong.
        PrivilegeError: Root or a capability is missing.
        InterfaceError: An interface is not ready, or was lost.
        KernelError: The kernel refused the program, a map or a ring.
        EvidenceError: Evidence cannot be written, or some could not be.
        SensorError: Metrics cannot be served at their address, or workers die as soon as they are started.
    """
    if not settings.interface:
        raise SettingsError("no interface: name one with -i, for example: sensor run -i eth1")
    check_privileges()
    sandbox.prepare()
    early = _note_reload_requests()
    frags = any(needs_frags(name, settings.mode) for name in settings.interface)
    interfaces = {name: check_interface(name, settings.mode, frags=frags) for name in settings.interface}
    interfaces = _without_repetitions(interfaces)
    for reason in mixed_link_types(list(interfaces.values())):
        raise InterfaceError(str(reason))
    started_s = time.monotonic()
    ready = make_ready(
        settings.rules,
        PROFILES[settings.profile].http,
        lenient=settings.lenient,
        watch=_drawn_by(show_status),
    )
    load_s = time.monotonic() - started_s
    with ExitStack() as stack:
        notifier = stack.enter_context(closing(Notifier()))
        events = stack.enter_context(closing(EventSender(settings, as_json=as_json)))
        supervisor = Supervisor(settings, ready, interfaces, events, stack, frags=frags)
        supervisor.reloader.loads.succeeded(load_s)
        stop = _handle_signals(settings.duration, supervisor.reloader, events)
        if early:
            supervisor.reloader.request()
        supervisor.handle(supervisor.workers.until_started())
        with closing(supervisor.ports) as ports:
            ports.attach()
            supervisor.publish("capturing")
            log.info(
                "capturing on %s (%s mode, %s) with %s",
                ", ".join(interfaces),
                settings.mode,
                count_of(len(supervisor.workers), "worker"),
                count_of(len(ready.rules), "rule"),
            )
            notifier.ready()
            gone = _loop(supervisor, stop, notifier, show_status)
        notifier.stopping()
        supervisor.publish("draining")
        supervisor.handle(supervisor.workers.drain())  # the program is detached: no more frames arrive
        supervisor.finish_conversations()
        counters = replace(supervisor.counters(), in_ring=supervisor.rings.waiting())
        supervisor.publish("draining")
    for path in supervisor.writer.paths:
        log.info("evidence: %s", path)
    log.info("counters: %s", counters.as_json())
    if gone:
        raise gone
    if counters.write_failed:
        raise EvidenceError(
            f"{count_of(counters.write_failed, 'matched frame')} could not be written to "
            f"{settings.evidence}; see the log"
        )


def _without_repetitions(interfaces: dict[str, Interface]) -> dict[str, Interface]:
    """Return each interface under the first of its names that the settings have."""
    by_index = {interface.index: (name, interface) for name, interface in reversed(interfaces.items())}
    return dict(reversed(by_index.values()))


def _drawn_by(show_status: ShowStatus | None) -> Watch:
    """Return a function that shows the progress of compiling the rules."""
    return unwatched if show_status is None else lambda progress: show_status(progress.words)


def _note_reload_requests() -> list[int]:
    """Return a list that gets an entry per SIGHUP during the start, which would otherwise end the process."""
    received: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _frame: received.append(number))
    return received


def _handle_signals(duration_s: float | None, reloader: Reloader, events: EventSender) -> Callable[[], bool]:
    """Handle signals; return a function that returns True after SIGINT, SIGTERM, or the duration.

    SIGHUP reloads the rules and reopens event files. The handlers stay until the process ends, so that a
    second signal does not interrupt the closing of files.
    """
    deadline_ns = time.monotonic_ns() + int(duration_s * 1e9) if duration_s else None
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            reloader.request()
            events.request_reopen()
        else:
            received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, note)
    return lambda: bool(received) or (deadline_ns is not None and time.monotonic_ns() >= deadline_ns)


def _loop(
    supervisor: Supervisor,
    stop: Callable[[], bool],
    notifier: Notifier,
    show_status: ShowStatus | None,
) -> InterfaceError | None:
    """Capture until ``stop`` returns True; return the error if the last port was lost instead."""
    upkeep, check, clock = _Timer(UPKEEP_NS), _Timer(CHECK_NS), WallClock()
    status, line = _Timer(DRAWN_STATUS_NS if show_status else STATUS_NS), StatusLine()
    while not stop():
        supervisor.handle(supervisor.workers.receive(WAIT_S))
        supervisor.look_after_conversations()
        notifier.alive()
        supervisor.renew_rings()
        if upkeep.is_due():
            supervisor.reload()
            notifier.reloading(supervisor.reloader.is_loading)
            supervisor.events.tick()
            supervisor.look_after_evidence()
            supervisor.indexer.tick()
            supervisor.publish("capturing")
        if status.is_due():
            text = line(supervisor.counters(), supervisor.program.counters()[abi.Counter.SEEN][1])
            notifier.status(text)
            if show_status:
                show_status(text)
        if check.is_due():
            supervisor.watch_sources()
            supervisor.surroundings.tick()
            supervisor.check_rings()
            supervisor.watch_directory()
            if supervisor.api:
                supervisor.api.tick()
            if supervisor.exporter:
                supervisor.exporter.tick()
            supervisor.clock_jumps += _watch_clock(clock)
            try:
                supervisor.ports.check()
            except InterfaceError as error:
                return error
    return None


def _watch_clock(clock: WallClock) -> bool:
    """Return True if the wall clock was set since the last call; new evidence uses the new time."""
    moved_ns = clock.remeasure()
    if abs(moved_ns) <= CLOCK_JUMP_NS:
        return False
    log.warning("the wall clock jumped by %+.3f s; new evidence uses the new time", moved_ns / 1e9)
    return True


class _Timer:
    """A periodic timer that is polled."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._due_ns = time.monotonic_ns() + period_ns

    def is_due(self) -> bool:
        now_ns = time.monotonic_ns()
        if now_ns < self._due_ns:
            return False
        self._due_ns = now_ns + self._period_ns
        return True
