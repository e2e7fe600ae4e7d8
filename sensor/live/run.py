"""``sensor run``: the supervisor; loads and attaches the program, starts the workers, writes evidence.

One loop: what the workers report, and between two reports whatever time asks for. Rotation,
status and signals therefore never wait behind the traffic for longer than a batch.
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
from sensor.capture.attachment import (
    Interface,
    attached,
    find_interface,
    is_attached,
    needs_frags,
    ready_interface,
)
from sensor.capture.clock import WallClock
from sensor.capture.program import check_privileges
from sensor.config.settings import Settings
from sensor.errors import EvidenceError, InterfaceError, SettingsError
from sensor.events.sender import EventSender
from sensor.live.reload import Reloader
from sensor.live.service_manager import Notifier
from sensor.live.status_line import StatusLine
from sensor.live.supervisor import Supervisor
from sensor.process.capabilities import keep_capabilities_from_programs
from sensor.rules.engine.profile import PROFILES
from sensor.rules.ready import make_ready

WAIT_S = 0.05
"""Bounds what time asks for, and how long a signal may go unnoticed."""
ROTATION_NS = 200_000_000
CHECK_NS = 1_000_000_000
STATUS_NS, DRAWN_STATUS_NS = 2_000_000_000, 1_000_000_000
"""Between two lines of status for a service manager, and on a terminal."""
CLOCK_JUMP_NS = 1_000_000_000

log = logging.getLogger(__name__)

ShowStatus = Callable[[str], None]


def run(settings: Settings, show_status: ShowStatus | None, *, as_json: bool) -> None:
    """Capture until a signal, the set duration, or an interface that goes away; log the final counters.

    Everything that can be refused is tried before the program is attached. ``as_json`` prints the matches.

    Raises:
        SettingsError: No interface was named, or a receiver of events that cannot be used.
        RulesError: A rule is wrong.
        PrivilegeError: Root or a capability is missing.
        InterfaceError: An interface is not ready, or went away.
        KernelError: The kernel refused program, map or ring.
        EvidenceError: Evidence cannot be written, or some could not be.
        SensorError: Metrics cannot be served where they are to be, or no worker stays alive.
    """
    if not settings.interface:
        raise SettingsError("no interface: name one with -i, for example: sensor run -i eth1")
    check_privileges()
    keep_capabilities_from_programs()
    names = tuple(dict.fromkeys(settings.interface))
    frags = any(needs_frags(name, settings.mode) for name in names)
    interfaces = [ready_interface(name, settings.mode, frags=frags) for name in names]
    started_s = time.monotonic()
    ready = make_ready(settings.rules, PROFILES[settings.profile].http, lenient=settings.lenient)
    load_s = time.monotonic() - started_s
    with ExitStack() as stack:
        notifier = stack.enter_context(closing(Notifier()))
        events = stack.enter_context(closing(EventSender(settings, as_json=as_json)))
        capture = Supervisor(settings, ready, interfaces, events, stack, frags=frags)
        capture.reloader.loads.succeeded(load_s)
        stop = _handle_signals(settings.duration, capture.reloader, events)
        capture.take(capture.crew.until_up())
        with ExitStack() as attachments:
            for interface in interfaces:
                link_fd = attachments.enter_context(attached(capture.program.fd, interface, settings.mode))
                capture.link_fds.append(link_fd)
            log.info(
                "capturing on %s (%s mode, %s) with %d rules",
                ", ".join(names),
                settings.mode,
                "1 worker" if len(capture.crew) == 1 else f"{len(capture.crew)} workers",
                len(ready.rules),
            )
            notifier.ready()
            gone = _loop(capture, interfaces, stop, notifier, show_status)
        notifier.stopping()
        capture.publish("draining")
        capture.take(capture.crew.drain())  # detached: what is in the rings is all there will be
        counters = replace(capture.counters(), in_ring=capture.rings.waiting())
        capture.publish("draining")
    for path in capture.writer.paths:
        log.info("evidence: %s", path)
    log.info("counters: %s", counters.as_json())
    if gone:
        raise gone
    if counters.write_failed:
        raise EvidenceError(
            f"{counters.write_failed} matched frames could not be written to {settings.evidence}; see the log"
        )


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
    capture: Supervisor,
    interfaces: list[Interface],
    stop: Callable[[], bool],
    notifier: Notifier,
    show_status: ShowStatus | None,
) -> InterfaceError | None:
    """Capture until told to stop (None), or until an interface is lost (the error to end with)."""
    rotation, check, clock = _Every(ROTATION_NS), _Every(CHECK_NS), WallClock()
    status, line = _Every(DRAWN_STATUS_NS if show_status else STATUS_NS), StatusLine()
    while not stop():
        capture.take(capture.crew.receive(WAIT_S))
        notifier.alive()
        if rotation.is_due():
            capture.reload()
            notifier.reloading(capture.reloader.is_loading)
            capture.events.tick()
            capture.upkeep.tick(time.time_ns())
            capture.publish("capturing")
        if status.is_due():
            text = line(capture.counters(), capture.program.counters()[abi.Counter.SEEN][1])
            notifier.status(text)
            if show_status:
                show_status(text)
        if check.is_due():
            if capture.api:
                capture.api.tick()
            if capture.exporter:
                capture.exporter.tick()
            capture.clock_jumps += _watch_clock(clock)
            try:
                interfaces = list(map(_still_there, interfaces, capture.link_fds))
            except InterfaceError as error:
                return error
    return None


def _watch_clock(clock: WallClock) -> bool:
    """Whether it jumped."""
    moved_ns = clock.remeasure()
    if abs(moved_ns) <= CLOCK_JUMP_NS:
        return False
    log.warning("the wall clock jumped by %+.3f s; evidence follows it", moved_ns / 1e9)
    return True


def _still_there(before: Interface, link_fd: int) -> Interface:
    """The interface as it is now.

    Raises:
        InterfaceError: It is gone, another one has taken its name, or the program was taken off it: nothing
            is captured there any more.
    """
    now = find_interface(before.name)
    if now.index != before.index:
        raise InterfaceError(f"{before.name}: was removed and created anew; start sensor again")
    if not is_attached(link_fd):
        raise InterfaceError(f"{before.name}: somebody has detached the program; start sensor again")
    if now.has_carrier != before.has_carrier:
        log.warning("%s: carrier %s", now.name, "is back" if now.has_carrier else "lost, nothing arrives")
    return now


def _handle_signals(duration_s: float | None, reloader: Reloader, events: EventSender) -> Callable[[], bool]:
    """At SIGHUP reload and reopen; give a question that turns true at SIGINT, SIGTERM, or after the duration.

    The handlers stay to the end of the process: no second signal may break off the closing of files.
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
