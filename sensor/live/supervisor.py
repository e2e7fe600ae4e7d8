"""The supervisor of ``sensor run`` owns program, rings and child processes, and writes the evidence.

`sensor.live.run` creates it before it attaches the program, and then calls its methods in one loop.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

import numpy as np

from sensor import abi
from sensor.capture.attachment import Interface
from sensor.capture.cpus import online_cpus
from sensor.capture.history import is_supported
from sensor.capture.hotplug import RingKeeper
from sensor.capture.interface import default_workers
from sensor.capture.interrupts import ReceiveCpus
from sensor.capture.plan_maps import KernelPlan
from sensor.capture.program import LoadedProgram, Program
from sensor.capture.ring_set import RingSet
from sensor.capture.syscalls import link_update
from sensor.config.settings import Settings
from sensor.counters import Counters
from sensor.errors import KernelError
from sensor.events.sender import EventSender
from sensor.evidence.batch_report import BatchReport
from sensor.evidence.budgets import Budgets
from sensor.evidence.device_directory import DeviceDirectory
from sensor.evidence.quarantine import Quarantine
from sensor.evidence.suppression import Suppressor
from sensor.evidence.writer import EvidenceWriter
from sensor.live.api_process import ApiProcess
from sensor.live.evidence_keeper import EvidenceKeeper
from sensor.live.followed_conversations import FollowedConversations
from sensor.live.indexer_process import IndexerProcess
from sensor.live.nic_losses import NicLosses
from sensor.live.ports import Ports
from sensor.live.program_options import options_of, plan_of
from sensor.live.reload import Compiled, Reloader
from sensor.live.reload_board import ReloadBoard
from sensor.live.retention_process import RetentionProcess
from sensor.live.rule_changes import rule_changes
from sensor.live.surroundings import Surroundings
from sensor.live.worker_pool import WorkerPool
from sensor.metrics.catalogue import FLOWS, RETENTION, RING_SIZE
from sensor.metrics.costly_sources import CostlySources
from sensor.metrics.exporter import Exporter, listen
from sensor.metrics.figure_source import FigureSource
from sensor.metrics.metric import Metric
from sensor.metrics.snapshot import Snapshot, SnapshotBoard
from sensor.metrics.tally import Tally
from sensor.model import LinkType
from sensor.pipeline import Pipeline
from sensor.rules.engine.profile import PROFILES
from sensor.rules.prefilter.networks import Networks
from sensor.rules.ready import Ready
from sensor.text import count_of

log = logging.getLogger(__name__)


class Supervisor:
    """Writes the evidence that workers report, reloads rules, and publishes metrics."""

    def __init__(
        self,
        settings: Settings,
        ready: Ready,
        interfaces_by_name: Mapping[str, Interface],
        events: EventSender,
        stack: ExitStack,
        *,
        frags: bool,
    ) -> None:
        """Open all parts and start the child processes; ``stack`` closes them in reverse order.

        ``interfaces_by_name`` are the interfaces by the names that the settings have for them.
        """
        interfaces = list(interfaces_by_name.values())
        self.events = events
        self.clock_jumps = 0
        self.tally = Tally({interface.index: interface.name for interface in interfaces})
        self._settings = settings
        self._rules = ready.rules
        self._totals = Counters()
        self._started_s = time.time()
        listener = stack.enter_context(closing(listen(settings.metrics))) if settings.metrics else None
        device = stack.enter_context(closing(DeviceDirectory(settings.evidence, settings.devid)))
        self._device = device
        for recovery in device.recovered:
            log.warning("%s", recovery)
        names = {interface.index: interface.name for interface in interfaces}
        indexer = IndexerProcess(settings, device.path, names)
        self.indexer = stack.enter_context(closing(indexer))
        writer = EvidenceWriter(device.path, indexer, local_time=settings.local_time)
        self.writer = stack.enter_context(closing(writer))
        writer.restore = self.watch_directory
        self._quarantine = Quarantine(device.path)
        retention = RetentionProcess(settings, device.path, indexer.forget, indexer.compare)
        self.retention = stack.enter_context(closing(retention))
        self.suppressor = Suppressor(settings.suppress_above)
        self.budgets = Budgets(
            settings.retain_source_percent, settings.retain_rule_percent, writer.open_bytes
        )
        self._http = ready.matcher.http
        raw_ip, has_history = interfaces[0].linktype == LinkType.RAW, _can_remember(settings)
        options = replace(
            options_of(settings, frags=frags, raw_ip=raw_ip, history=has_history),
            ifindexes=tuple(interface.index for interface in interfaces),
        )
        program = Program(plan_of(ready.plan, self._http, settings.keep), options)
        self.program = stack.enter_context(closing(program))
        self.reloader = Reloader(settings.rules, self._http, self._compile_plan, lenient=settings.lenient)
        self._shown = self.reloader.state
        self._reload_board = ReloadBoard(device.path)
        self._reload_board.show(self._shown)
        stack.callback(lambda: self._reload_board.close())
        linktype, cpus = interfaces[0].linktype or LinkType.ETHERNET, ReceiveCpus(interfaces)
        self.rings = stack.enter_context(closing(RingSet.open(settings.ring_mib << 20, linktype, cpus.now())))
        if program.history:
            program.history.add(ring.cpu for ring in self.rings.rings)
        self._map_bytes = program.memory_bytes()
        self._ring_keeper = RingKeeper(program, self.rings, settings.ring_mib << 20, cpus.now)
        stack.callback(self._ring_keeper.close)
        program.connect(self.rings.rings)
        ports = Ports(interfaces_by_name, program, settings.mode, frags=frags)
        self.ports = stack.enter_context(closing(ports))
        self._board = SnapshotBoard()
        self.exporter: Exporter | None = None
        if listener:
            constants: dict[Metric, float] = {FLOWS: settings.flows, RING_SIZE: settings.ring_mib << 20}
            if settings.retain_days is not None:
                constants[RETENTION] = settings.retain_days * 86_400
            make_source = self._source_maker([interface.name for interface in interfaces])
            self.exporter = Exporter(listener, make_source, (program.counters_fd,), constants)
            stack.enter_context(closing(self.exporter))
        networks = Networks(settings.networks_include, settings.networks_exclude)
        self._pipeline = Pipeline(
            ready.matcher, settings.keep, settings.profile, networks=networks, digest=ready.rules.digest
        )
        self.workers = WorkerPool(
            self._pipeline,
            self.rings.rings,
            _worker_count(settings, interfaces),
            {interface.index for interface in interfaces},
        )
        stack.callback(self.workers.kill)
        conversations = FollowedConversations(
            settings, program, lambda: self.rings.rings, self.workers, lambda: self._pipeline, set(names)
        )
        self.conversations = stack.enter_context(closing(conversations))
        self._keeper = EvidenceKeeper(
            self.suppressor, self.budgets, conversations, writer, self.indexer, events
        )
        self._nic_losses = NicLosses([interface.name for interface in interfaces])
        self._costly_sources = CostlySources(self.workers.sources)
        self.surroundings = Surroundings(settings)
        self.publish("starting")
        self.api = stack.enter_context(closing(ApiProcess(settings))) if settings.api else None

    def handle(self, reports: Iterable[BatchReport]) -> None:
        """Add up what workers report, write the evidence, and offer it to the event sender."""
        for report in reports:
            self.tally.add(report)
            before = self._totals
            items = context = 0
            if report.block is not None:
                items, context = len(report.block), int(np.count_nonzero(report.block.is_context))
            self._totals = replace(
                before,
                read=before.read + report.read,
                undecodable=before.undecodable + report.undecodable,
                unmatched=before.unmatched + report.unmatched,
                sampled=before.sampled + report.sampled,
                quarantined=before.quarantined + (report.quarantined is not None),
                matched=before.matched + items - context,
                context=before.context + context,
                cut=before.cut + report.cut,
            )
            if report.quarantined:
                self._quarantine.keep(report.quarantined)
            if report.block:
                self._keeper.keep(report.block)

    def look_after_conversations(self) -> None:
        """Write the context that was found in the history; call this in each turn of the loop."""
        self._keeper.keep_found(self.conversations.tick())

    def finish_conversations(self) -> None:
        """Write what is still found in the history, once all reports were handled."""
        self._keeper.keep_found(self.conversations.finish())

    @property
    def suppressed(self) -> dict[str, int]:
        """Frames suppressed, by the limit that they were above."""
        return {"flow": self.suppressor.suppressed} | dict(self.budgets.suppressed)

    def look_after_evidence(self) -> None:
        """Finish files that are complete, and follow the space that is left; call this often."""
        self.writer.tick(time.time_ns())
        self.retention.tick()
        self.budgets.update(self.retention.space, time.monotonic())
        self.conversations.look_after_process()
        self.conversations.set_lost(sum(self.program.losses().values()) + self._nic_losses.frames)

    def reload(self) -> None:
        """Put new rules in force if a load has finished, and show what became of requests to reload."""
        compiled = self.reloader.poll()
        if compiled is not None:
            before = self._rules
            self._put_in_force(compiled)
            self.reloader.note_in_force(rule_changes(before, self._rules))
        state = self.reloader.state
        if state != self._shown:
            self._shown = state
            self._reload_board.show(self._shown)

    def _put_in_force(self, compiled: Compiled) -> None:
        """Replace the rules: first in the kernel, then in the workers."""
        for ring in self.rings.rings:  # one may have a new event since the program was compiled
            self.program.reconnect(ring, compiled.program)
        for link_fd in self.ports.link_fds:
            with suppress(OSError):  # the port is gone, which its check finds
                link_update(link_fd, compiled.program.fd)
        self.program.use(compiled.program)
        self._map_bytes = self.program.memory_bytes()
        self._pipeline = self._pipeline.with_matcher(compiled.ready.matcher, compiled.ready.rules.digest)
        self.handle(self.workers.hand_over(self._pipeline))
        self._rules = rules = compiled.ready.rules
        log.info("%s in force (%s)", count_of(len(rules), "rule"), rules.digest[:12])

    def watch_directory(self) -> None:
        """Make the evidence directory again if it is gone; call this once per second.

        The processes that may enter only the old one are replaced.
        """
        if self._device.restore():
            for child in (self.indexer, self.retention, self.exporter, self.api):
                if child:
                    child.replace()
            self._show_reloads()

    def _show_reloads(self) -> None:
        """Show what became of requests to reload, in a new file."""
        self._reload_board.close()
        self._reload_board = ReloadBoard(self._device.path)
        self._reload_board.show(self._shown)

    def watch_sources(self) -> None:
        """Look for the costliest sources, and for losses of the NICs; call this once per second."""
        self._costly_sources.tick(self._totals.sampled)
        self._nic_losses.tick()

    def renew_rings(self) -> None:
        """Give rings of CPUs that are back a new perf event; call this several times per second."""
        for cpu in self._ring_keeper.renew():
            log.warning("CPU %d was down and is back", cpu)

    def check_rings(self) -> None:
        """Give a ring to CPUs on which frames can arrive since a moment ago; call this once per second."""
        for cpu in self._ring_keeper.check():
            log.warning("CPU %d had lost its ring, and has it again", cpu)
        if rings := self._ring_keeper.missing():
            self.handle(self.workers.add_rings(rings))
            self.rings.add(rings)
            if self.program.history:
                try:
                    self.program.history.add(ring.cpu for ring in rings)
                except KernelError as error:
                    log.warning("%s; the context of what arrives there is not kept", error)
                self.conversations.renew_histories()
            self.program.connect(rings)
            log.info(
                "frames may arrive on CPU %s, which has a ring now",
                ", ".join(str(ring.cpu) for ring in rings),
            )

    def counters(self) -> Counters:
        """Return the counters of this moment; ``in_ring`` is inferred, since frames keep arriving."""
        kernel = {counter: frames for counter, (frames, _) in self.program.counters().items()}
        return replace(
            self._totals,
            seen=kernel[abi.Counter.SEEN],
            ignored={c.name.removeprefix("IGNORED_").lower(): kernel[c] for c in abi.IGNORED},
            submitted=kernel[abi.Counter.SUBMITTED],
            submit_failed=kernel[abi.Counter.SUBMIT_FAILED],
            lost={loss.name.lower(): frames for loss, frames in self.program.losses().items()},
            recalled=self._keeper.recalled,
            in_ring=max(0, kernel[abi.Counter.SUBMITTED] - self._totals.read),
            written=self.writer.written,
            suppressed=sum(self.suppressed.values()),
            write_failed=self.writer.write_failed,
            context_written=self.writer.context_written,
            context_failed=self.writer.context_failed,
            context_surplus=self.conversations.surplus + self.budgets.context_suppressed,
            remembered=int(self.program.counters_by_cpu()["history"][..., abi.HistoryFate.KEPT].sum()),
            restarts=self.workers.restarts,
        )

    def publish(self, state: str) -> None:
        """Publish the metrics to the exporter, if there is one; ``state`` is one of `catalogue.STATES`."""
        if not self.exporter:
            return
        index = self.indexer.report
        snapshot = Snapshot(
            time_s=time.time(),
            started_s=self._started_s,
            state=state,
            counters=self.counters(),
            tally=self.tally.figures(),
            loads=self.reloader.loads.figures(),
            digest=self._rules.digest,
            rules=Counter(rule.rule_class for rule in self._rules),
            matches={
                "written": self.writer.matches_written,
                "suppressed": self.suppressor.matches + self.budgets.matches,
                "write_failed": self.writer.matches_failed,
            },
            suppressed=self.suppressed,
            files_finished=self.writer.finished,
            writes_fail=self.writer.fails,
            files_replaced=self.writer.replaced,
            workers=len(self.workers),
            workers_alive=self.workers.alive,
            clock_jumps=self.clock_jumps,
            ports_attached=self.ports.are_attached,
            conversations=self.conversations.opened,
            conversations_open=len(self.conversations),
            conversations_refused=self.conversations.refused,
            history_reach_s=self.program.history.reach_s() if self.program.history else None,
            ring_fill={ring.cpu: ring.fill() for ring in self.rings.rings},
            map_bytes=self._map_bytes,
            costly_sources=self._costly_sources.figures,
            index=self.indexer.figures(),
            index_missing=self.indexer.missing,
            is_reindexing=index.is_reindexing,
            reindex_remaining=index.remaining_bytes,
            reindex_done=index.done_bytes,
            deleted=self.retention.deleted,
            retention_failures=self.retention.failures,
            receivers=self.events.states(),
            surroundings=self.surroundings.figures,
        )
        self._board.publish(snapshot)

    def _source_maker(self, interfaces: list[str]) -> Callable[[], FigureSource]:
        def make() -> FigureSource:
            """Return the source of all metrics; called in the exporter."""
            return FigureSource(
                self._board.reader(),
                self.program.counters_by_cpu,
                interfaces,
                self.writer.directory,
                local_time=self._settings.local_time,
            )

        return make

    def _compile_plan(self, rules_plan: KernelPlan) -> LoadedProgram:
        """Compile the program for new rules; called in the thread that reloads."""
        return self.program.compile(plan_of(rules_plan, self._http, self._settings.keep))


def _can_remember(settings: Settings) -> bool:
    """Return True if the kernel is to remember recent frames, and can."""
    if settings.context == "off" or not settings.history_mib:
        return False
    if not is_supported():
        log.warning(
            "this kernel (before Linux 5.18) cannot remember recent frames: of a conversation, only what "
            "follows the match is kept; to turn this warning off, set history_mib to 0"
        )
        return False
    return True


def _worker_count(settings: Settings, interfaces: Sequence[Interface]) -> int:
    """Return the number of workers: 1 if the evidence depends on labels of flows, which one process keeps."""
    if settings.keep == "flow" or PROFILES[settings.profile].once:
        if settings.workers not in (None, 1):
            log.warning("using 1 worker: --keep flow and --profile ly_probe need every flow in one process")
        return 1
    return settings.workers or default_workers(interfaces, len(online_cpus()))
