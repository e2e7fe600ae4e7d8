"""``sensor run``: the supervisor; loads and attaches the program, starts the workers, writes evidence.

One loop: what the workers report, and between two reports whatever time asks for. Rotation,
status and signals therefore never wait behind the traffic for longer than a batch.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import replace
from types import FrameType

from sensor import abi
from sensor.api.process import ApiProcess
from sensor.capture.clock import WallClock
from sensor.capture.interface import default_workers
from sensor.capture.link import Interface, attached, find_interface, needs_frags, ready_interface
from sensor.capture.program import Generation, KernelPlan, Options, Program, check_privileges
from sensor.capture.ring import RingSet, online_cpus
from sensor.capture.syscalls import link_update
from sensor.config import Keep, Settings
from sensor.counters import Counters
from sensor.crew import Crew
from sensor.errors import EvidenceError, InterfaceError, SettingsError
from sensor.evidence.store import EvidenceWriter
from sensor.evidence.suppress import Suppressor
from sensor.metrics.board import Board, Snapshot
from sensor.metrics.catalogue import FLOWS, RING_SIZE, Metric
from sensor.metrics.exporter import Exporter, listen
from sensor.metrics.source import Source
from sensor.model import Evidence
from sensor.pipeline import Pipeline
from sensor.reload import Reloader
from sensor.report import counters_line, interface_name
from sensor.rules.emit import kernel_plan
from sensor.rules.http import HttpReading
from sensor.rules.networks import Networks
from sensor.rules.plan import Plan
from sensor.rules.profile import PROFILES
from sensor.rules.ready import Ready, make_ready
from sensor.tally import Tally
from sensor.upkeep import Upkeep
from sensor.worker import Report

WAIT_S = 0.05
"""Bounds what time asks for, and how long a signal may go unnoticed."""
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
        SensorError: Metrics cannot be served where they are to be.
    """
    if not settings.interface:
        raise SettingsError("no interface: name one with -i, for example: sensor run -i eth1")
    check_privileges()
    names = tuple(dict.fromkeys(settings.interface))
    frags = any(needs_frags(name, settings.mode) for name in names)
    interfaces = [ready_interface(name, settings.mode, frags=frags) for name in names]
    started_s = time.monotonic()
    ready = make_ready(settings.rules, PROFILES[settings.profile].http, lenient=settings.lenient)
    load_s = time.monotonic() - started_s
    with ExitStack() as stack:
        capture = Capture(settings, ready, interfaces, stack, frags=frags)
        capture.reloader.loads.succeeded(load_s)
        stop = _handle_signals(settings.duration, capture.reloader)
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
            gone = _loop(capture, interfaces, stop, emit, show_status)
        capture.publish("draining")
        capture.take(capture.crew.drain(), emit)  # detached: what is in the rings is all there will be
        counters = replace(capture.counters(), in_ring=capture.rings.waiting())
        capture.publish("draining")
    for path in capture.writer.paths:
        log.info("evidence: %s", path)
    log.info("counters: %s", counters_line(counters))
    if gone:
        raise gone
    if counters.write_failed:
        raise EvidenceError(
            f"{counters.write_failed} matched frames could not be written to {settings.evidence}; see the log"
        )


def _workers(settings: Settings, interfaces: list[Interface]) -> int:
    """Labels of a flow are remembered in one place: where they decide, there is one worker."""
    if settings.keep == "flow" or PROFILES[settings.profile].once:
        if settings.workers not in (None, 1):
            log.warning("1 worker: --keep flow and --profile ly_probe remember each flow in one place")
        return 1
    return settings.workers or default_workers(interfaces, len(online_cpus()))


class Capture:
    """Everything between the interfaces and the evidence files."""

    def __init__(
        self,
        settings: Settings,
        ready: Ready,
        interfaces: list[Interface],
        stack: ExitStack,
        *,
        frags: bool,
    ) -> None:
        """Open all of it; the stack closes it."""
        self._keep = settings.keep
        self._totals = Counters()
        self.link_fds: list[int] = []
        """Of the interfaces the program is attached to."""
        self.clock_jumps = 0
        self.tally = Tally({interface.index: interface.name for interface in interfaces})
        self._started_s = time.time()
        listener = stack.enter_context(closing(listen(settings.metrics))) if settings.metrics else None
        writer = EvidenceWriter(
            settings.evidence,
            settings.devid,
            local_time=settings.local_time,
            interface_name=interface_name,
        )
        self.writer = stack.enter_context(closing(writer))
        self.upkeep = stack.enter_context(closing(Upkeep(settings, writer)))
        for recovery in writer.recovered:
            log.warning("%s", recovery)
        networks = Networks(settings.networks_include, settings.networks_exclude)
        self.pipeline = Pipeline((), settings.keep, settings.profile, networks=networks)
        self.pipeline.matcher = ready.matcher
        self.suppressor = Suppressor(settings.suppress_above)
        program = Program(
            plan_of(ready.plan, ready.matcher.http, settings.keep), options_of(settings, frags=frags)
        )
        self.program = stack.enter_context(closing(program))
        self._map_bytes = program.memory_bytes()
        self.reloader = Reloader(
            settings.rules, ready.matcher.http, self._for_kernel, lenient=settings.lenient
        )
        self.rings = stack.enter_context(closing(RingSet.open(settings.ring_mib << 20)))
        program.connect(self.rings.rings)
        self._rules = ready.rules
        self._board = Board()
        self.exporter: Exporter | None = None
        if listener:
            self.exporter = Exporter(listener, self._source(settings, interfaces), _constants(settings))
            stack.enter_context(closing(self.exporter))
        self.crew = Crew(self.pipeline, self.rings.rings, _workers(settings, interfaces))
        stack.callback(self.crew.kill)
        self.publish("starting")
        self.api = stack.enter_context(closing(ApiProcess(settings))) if settings.api else None

    def take(self, reports: Iterable[Report], emit: Emit) -> None:
        """Count what the workers report, and write the evidence."""
        for report in reports:
            self.tally.add(report)
            before = self._totals
            self._totals = replace(
                before,
                read=before.read + report.read,
                undecodable=before.undecodable + report.undecodable,
                unmatched=before.unmatched + report.unmatched,
                matched=before.matched + len(report.pieces),
                cut=before.cut + report.cut,
            )
            if report.pieces:
                pieces = self.suppressor.admit(report.pieces)
                self.writer.write(pieces)
                emit(pieces)

    def reload(self, emit: Emit) -> None:
        """Put a new rule set in force where one has been finished: in the kernel, then in the workers."""
        compiled = self.reloader.take()
        if compiled is None:
            return
        for link_fd in self.link_fds:
            link_update(link_fd, compiled.generation.fd)
        self.program.use(compiled.generation)
        self.pipeline.matcher = compiled.ready.matcher
        self.take(self.crew.hand_over(self.pipeline), emit)
        self._rules = rules = compiled.ready.rules
        log.info("%d rules in force (%s)", len(rules), rules.digest[:12])

    def counters(self) -> Counters:
        """Take a snapshot; what is in the rings is inferred, since frames keep arriving."""
        kernel = {counter: frames for counter, (frames, _) in self.program.counters().items()}
        return replace(
            self._totals,
            seen=kernel[abi.Counter.SEEN],
            ignored={c.name.removeprefix("IGNORED_").lower(): kernel[c] for c in abi.IGNORED},
            submitted=kernel[abi.Counter.SUBMITTED],
            submit_failed=kernel[abi.Counter.SUBMIT_FAILED],
            in_ring=max(0, kernel[abi.Counter.SUBMITTED] - self._totals.read),
            written=self.writer.written,
            suppressed=self.suppressor.suppressed,
            write_failed=self.writer.write_failed,
            restarts=self.crew.restarts,
        )

    def publish(self, state: str) -> None:
        """Let the exporter know where things stand."""
        if not self.exporter:
            return
        snapshot = Snapshot(
            time_s=time.time(),
            started_s=self._started_s,
            state=state,
            counters=self.counters(),
            tally=self.tally,
            loads=self.reloader.loads,
            digest=self._rules.digest,
            rules=Counter(rule.rule_class for rule in self._rules),
            matches_written=self.writer.matches_written,
            files_finished=self.writer.finished,
            workers=len(self.crew),
            workers_alive=self.crew.alive,
            clock_jumps=self.clock_jumps,
            map_bytes=self._map_bytes,
        )
        self._board.publish(snapshot)

    def _source(self, settings: Settings, interfaces: list[Interface]) -> Callable[[], Source]:
        def make() -> Source:
            """In the exporter, which lets go of what is not its own."""
            self.program.count_only()
            return Source(
                self._board,
                self.program.counters_by_cpu,
                [ring.mapped_anew() for ring in self.rings.rings],
                [interface.name for interface in interfaces],
                self.writer.directory,
                local_time=settings.local_time,
            )

        return make

    def _for_kernel(self, plan: KernelPlan) -> Generation:
        return self.program.compile(plan_of(plan, self.pipeline.matcher.http, self._keep))


def _constants(settings: Settings) -> dict[Metric, float]:
    return {FLOWS: settings.flows, RING_SIZE: settings.ring_mib << 20}


def plan_of(of_rules: KernelPlan, http: HttpReading, keep: Keep) -> KernelPlan:
    """What the kernel may ignore: where flows are kept, nothing that carries payload."""
    return kernel_plan(Plan.pass_all(), http) if keep == "flow" else of_rules


def options_of(settings: Settings, *, frags: bool) -> Options:
    """Everything else that is compiled in; ``frags``: frames may come in several buffers."""
    profile = PROFILES[settings.profile]
    return Options(
        snaplen=settings.snaplen,
        action=settings.action,
        flows=settings.flows,
        depth=profile.depth,
        http_at_any_depth=profile.http_at_any_depth,
        longest=profile.longest,
        flow_has_tos=profile.flow_has_tos,
        idle_s=profile.idle_s,
        life_s=profile.life_s,
        include=settings.networks_include,
        exclude=settings.networks_exclude,
        multi_buffer=frags,
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
    capture: Capture,
    interfaces: list[Interface],
    stop: Callable[[], bool],
    emit: Emit,
    show_status: ShowStatus | None,
) -> InterfaceError | None:
    """Capture until told to stop (None), or until an interface is gone (the error to end with)."""
    rotation, status, clock = _Every(ROTATION_NS), _Every(STATUS_NS), WallClock()
    while not stop():
        capture.take(capture.crew.receive(WAIT_S), emit)
        if rotation.is_due():
            capture.reload(emit)
            capture.upkeep.tick(time.time_ns())
            capture.publish("capturing")
        if status.is_due():
            if capture.api:
                capture.api.tick()
            if show_status:
                show_status(capture.counters(), capture.program.counters()[abi.Counter.SEEN][1])
            if capture.exporter:
                capture.exporter.watch(capture.link_fds)
            capture.clock_jumps += _watch_clock(clock)
            try:
                interfaces = [_still_there(interface) for interface in interfaces]
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
