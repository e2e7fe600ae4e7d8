"""Everything between the interfaces and the evidence files, as the supervisor holds it.

Opened before anything is attached, and closed together: program, rings, workers, writer, and the
processes beside them. `sensor.live.run` says when what is done.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import replace

from sensor import abi
from sensor.capture.attachment import Interface
from sensor.capture.interface import default_workers
from sensor.capture.program import Generation, KernelPlan, Options, Program
from sensor.capture.ring import RingSet, online_cpus
from sensor.capture.syscalls import link_update
from sensor.config.settings import Keep, Settings
from sensor.counters import Counters
from sensor.events.sender import EventSender
from sensor.evidence.suppression import Suppressor
from sensor.evidence.writer import EvidenceWriter
from sensor.live.api_process import ApiProcess
from sensor.live.reload import Reloader
from sensor.live.upkeep import Upkeep
from sensor.live.worker_pool import WorkerPool
from sensor.metrics.catalogue import FLOWS, RING_SIZE, Metric
from sensor.metrics.exporter import Exporter, listen
from sensor.metrics.figure_source import FigureSource
from sensor.metrics.snapshot import Board, Snapshot
from sensor.metrics.tally import Tally
from sensor.pipeline import BatchReport, Pipeline
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.profile import PROFILES
from sensor.rules.prefilter.emit import kernel_plan
from sensor.rules.prefilter.networks import Networks
from sensor.rules.prefilter.plan import Plan
from sensor.rules.ready import Ready
from sensor.text import interface_name

log = logging.getLogger(__name__)


def _workers(settings: Settings, interfaces: list[Interface]) -> int:
    """Labels of a flow are remembered in one place: where they decide, there is one worker."""
    if settings.keep == "flow" or PROFILES[settings.profile].once:
        if settings.workers not in (None, 1):
            log.warning("1 worker: --keep flow and --profile ly_probe remember each flow in one place")
        return 1
    return settings.workers or default_workers(interfaces, len(online_cpus()))


class Supervisor:
    """Everything between the interfaces and the evidence files."""

    def __init__(
        self,
        settings: Settings,
        ready: Ready,
        interfaces: list[Interface],
        events: EventSender,
        stack: ExitStack,
        *,
        frags: bool,
    ) -> None:
        """Open all of it; the stack closes it."""
        self.events = events
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
            plan_of(ready.plan, ready.matcher.http, settings.keep),
            replace(
                options_of(settings, frags=frags),
                ifindexes=tuple(interface.index for interface in interfaces),
            ),
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
            source, kept_fds = self._source(settings, interfaces), (program.counters_fd,)
            self.exporter = Exporter(listener, source, kept_fds, _constants(settings))
            stack.enter_context(closing(self.exporter))
        self.crew = WorkerPool(self.pipeline, self.rings.rings, _workers(settings, interfaces))
        stack.callback(self.crew.kill)
        self.publish("starting")
        self.api = stack.enter_context(closing(ApiProcess(settings))) if settings.api else None

    def take(self, reports: Iterable[BatchReport]) -> None:
        """Count what the workers report, write the evidence, and tell of it."""
        for report in reports:
            self.tally.add(report)
            before = self._totals
            self._totals = replace(
                before,
                read=before.read + report.read,
                undecodable=before.undecodable + report.undecodable,
                unmatched=before.unmatched + report.unmatched,
                matched=before.matched + len(report.items),
                cut=before.cut + report.cut,
            )
            if report.items:
                items = self.suppressor.admit(report.items)
                self.events.offer(self.writer.write(items))

    def reload(self) -> None:
        """Put a new rule set in force where one has been finished: in the kernel, then in the workers."""
        compiled = self.reloader.take()
        if compiled is None:
            return
        for link_fd in self.link_fds:
            link_update(link_fd, compiled.generation.fd)
        self.program.use(compiled.generation)
        self.pipeline.matcher = compiled.ready.matcher
        self.take(self.crew.hand_over(self.pipeline))
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
        upkeep = self.upkeep
        snapshot = Snapshot(
            time_s=time.time(),
            started_s=self._started_s,
            state=state,
            counters=self.counters(),
            tally=self.tally,
            loads=self.reloader.loads,
            digest=self._rules.digest,
            rules=Counter(rule.rule_class for rule in self._rules),
            matches={
                "written": self.writer.matches_written,
                "suppressed": self.suppressor.matches,
                "write_failed": self.writer.matches_failed,
            },
            files_finished=self.writer.finished,
            workers=len(self.crew),
            workers_alive=self.crew.alive,
            clock_jumps=self.clock_jumps,
            map_bytes=self._map_bytes,
            index=self.writer.index.figures(),
            is_reindexing=upkeep.reindexer.is_busy,
            reindex_remaining=upkeep.reindexer.remaining_bytes,
            reindex_done=upkeep.reindexer.done_bytes,
            deleted=upkeep.retention.deleted,
            retention_failures=upkeep.retention.failures,
            receivers=self.events.states(),
        )
        self._board.publish(snapshot)

    def _source(self, settings: Settings, interfaces: list[Interface]) -> Callable[[], FigureSource]:
        def make() -> FigureSource:
            """In the exporter."""
            return FigureSource(
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
