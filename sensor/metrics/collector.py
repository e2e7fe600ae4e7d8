"""Turns figures into Prometheus samples, at each scrape. Runs in the exporter.

Figures that cannot be read are absent, and ``sensor_source_up`` says so: a zero always means zero.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry

from sensor import abi
from sensor.events.receiver_state import ReceiverState
from sensor.metrics import catalogue as c
from sensor.metrics.figure_source import UNREADABLE, EvidenceFigures, FigureSource, InterfaceFigures, Softnet
from sensor.metrics.histogram import HistogramFigures
from sensor.metrics.metric import Metric
from sensor.metrics.snapshot import Snapshot, SurroundingsFigures
from sensor.metrics.talkers import OTHER
from sensor.metrics.tally import MATCH_CLASSES, TallyFigures
from sensor.model import RULE_CLASSES
from sensor.text import shown

log = logging.getLogger(__name__)

Figures = TypeVar("Figures")
Counted = Mapping[str, NDArray[np.void]]
"""The kernel's counters by interface: `abi.COUNTERS` of shape (CPUs,)."""


class Sample(NamedTuple):
    """The value of one series of a metric."""

    metric: Metric
    value: float | HistogramFigures
    labels: tuple[str, ...] = ()


class SensorCollector(Collector):
    """A collector that reads a `FigureSource` at each scrape."""

    def __init__(
        self,
        source: FigureSource,
        build: dict[str, str],
        constants: dict[Metric, float],
        registry: CollectorRegistry,
    ) -> None:
        """Register the collector; ``constants`` are gauges that never change."""
        self._source = source
        self._constants = [Sample(c.BUILD, 1, tuple(build[label] for label in c.BUILD.labels))]
        self._constants += [Sample(metric, value) for metric, value in constants.items()]
        self._down: set[str] = set()
        registry.register(self)

    def describe(self) -> Iterable[Family]:
        """Return the families without samples; the registry uses them to check names."""
        return [_family(metric, []) for metric in c.METRICS]

    def collect(self) -> Iterable[Family]:
        """Read every source once; the supervisor first, as the kernel has counted all its frames."""
        samples: dict[Metric, list[Sample]] = {metric: [] for metric in c.METRICS}
        for sample in self._samples():
            labels = tuple(map(shown, sample.labels))  # rules and interfaces may have any name
            samples[sample.metric].append(sample._replace(labels=labels))
        return [_family(metric, found) for metric, found in samples.items()]

    def _samples(self) -> Iterator[Sample]:
        source = self._source
        yield from self._constants
        up: dict[str, bool] = {}
        snapshot = self._read("supervisor", source.supervisor, up)
        counters = self._read("kernel", source.kernel, up)
        fill = self._read("rings", source.rings, up)
        interfaces = self._read("interfaces", source.interfaces, up)
        softnet = self._read("softnet", source.softnet, up)
        evidence = self._read("evidence", source.evidence, up)
        yield from (Sample(c.SOURCE_UP, is_up, (name,)) for name, is_up in up.items())
        cpus = _cpus(fill or {}, counters or {}, snapshot)
        if snapshot:
            yield from _supervisor_samples(snapshot)
            yield from (Sample(c.ATTACHED, is_so, (name,)) for name, is_so in snapshot.ports_attached.items())
            yield from _worker_samples(snapshot.tally, cpus)
            yield from _match_samples(snapshot)
            yield from _conversation_samples(snapshot)
            yield from _index_samples(snapshot)
            yield from _receiver_samples(snapshot.receivers)
            yield from _surroundings_samples(snapshot.surroundings)
        if counters:
            yield from _kernel_samples(counters, cpus)
            yield from _flow_samples(counters)
        if snapshot and counters:
            yield from _ring_samples(counters, snapshot.tally, cpus)
        yield from (Sample(c.RING_FILL, share, (str(cpu),)) for cpu, share in (fill or {}).items())
        for each in interfaces or ():
            yield from _interface_samples(each)
        yield from _softnet_samples(softnet or ())
        if evidence:
            yield from _evidence_samples(evidence)

    def _read(self, name: str, read: Callable[[], Figures], up: dict[str, bool]) -> Figures | None:
        try:
            figures = read()
        except UNREADABLE as error:
            if name not in self._down:
                log.error("metrics: cannot read source %s: %s", name, error)  # noqa: TRY400 - a traceback adds nothing
            self._down.add(name)
            up[name] = False
            return None
        self._down.discard(name)
        up[name] = True
        return figures


def _cpus(rings: Iterable[int], counters: Counted, snapshot: Snapshot | None) -> list[int]:
    """Return the CPUs that have a ring, and any others that received frames."""
    seen = (
        np.flatnonzero(one["buckets"]["frames"][:, abi.Counter.SEEN]).tolist() for one in counters.values()
    )
    return sorted({*rings, *(snapshot.tally.read if snapshot else ()), *(cpu for one in seen for cpu in one)})


def _kernel_samples(counters: Counted, cpus: Sequence[int]) -> Iterator[Sample]:
    both = {
        abi.Counter.SEEN: (c.SEEN, c.SEEN_BYTES),
        abi.Counter.SUBMITTED: (c.SUBMITTED, c.SUBMITTED_BYTES),
    }
    for (name, found), cpu in product(counters.items(), cpus):
        for counter, (frames, size) in zip(abi.Counter, found["buckets"][cpu].tolist(), strict=True):
            labels: tuple[str, ...] = (name, str(cpu))
            metrics = both.get(counter)
            if counter == abi.Counter.SUBMIT_FAILED:
                losses = zip(c.CAUSES, found["losses"][cpu].tolist(), strict=True)
                yield from (Sample(c.LOST, lost, (*labels, cause)) for cause, lost in losses)
                yield Sample(c.LOST_BYTES, size, labels)
                continue
            if metrics is None:
                labels += (counter.name.removeprefix("IGNORED_").lower(),)
                metrics = c.IGNORED, c.IGNORED_BYTES
            yield Sample(metrics[0], frames, labels)
            yield Sample(metrics[1], size, labels)


def _flow_samples(counters: Counted) -> Iterator[Sample]:
    begun = sum(found["flows"].sum(axis=0) for found in counters.values()).tolist()
    yield Sample(c.FLOW_ENTRIES, begun[abi.FlowPlace.UNUSED])
    for place, flows in zip(c.FLOW_PLACES, begun, strict=True):
        yield Sample(c.FLOWS_BEGUN, flows, (place,))
    remembered = sum(found["history"].sum(axis=0) for found in counters.values()).tolist()
    for fate, frames in zip(c.HISTORY_FATES, remembered, strict=True):
        yield Sample(c.HISTORY, frames, (fate,))


def _ring_samples(counters: Counted, tally: TallyFigures, cpus: Iterable[int]) -> Iterator[Sample]:
    """Yield the frames in each ring: submitted, less those read."""
    for cpu in cpus:
        submitted = sum(
            int(one["buckets"]["frames"][cpu, abi.Counter.SUBMITTED]) for one in counters.values()
        )
        yield Sample(c.IN_RING, max(0, submitted - tally.read.get(cpu, 0)), (str(cpu),))


def _supervisor_samples(snapshot: Snapshot) -> Iterator[Sample]:
    counters, tally, loads = snapshot.counters, snapshot.tally, snapshot.loads
    for state in c.STATES:
        yield Sample(c.STATE, state == snapshot.state, (state,))
    for metric, value in (
        (c.CUT, counters.cut),
        (c.RESTARTS, counters.restarts),
        (c.WORKERS, snapshot.workers),
        (c.WORKERS_ALIVE, snapshot.workers_alive),
        (c.FILES_FINISHED, snapshot.files_finished),
        (c.WRITES_FAIL, snapshot.writes_fail),
        (c.FILES_REPLACED, snapshot.files_replaced),
        (c.CLOCK_JUMPS, snapshot.clock_jumps),
        (c.STARTED, snapshot.started_s),
        (c.HEARTBEAT, snapshot.time_s),
        (c.LOADS_FAILED, loads.failed),
        (c.STALE, loads.is_stale),
        (c.LAST_LOAD, loads.last_success_s),
        (c.LOAD_TIME, loads.seconds),
        (c.BATCH_TIME, tally.batch_s),
        (c.MATCH_TIME, tally.match_s),
        (c.RING_BACKLOG, tally.fill),
    ):
        yield Sample(metric, value)
    for outcome in c.OUTCOMES:
        yield Sample(c.EVIDENCE, getattr(counters, outcome), (outcome,))
    for rule_class in RULE_CLASSES:
        yield Sample(c.RULES, snapshot.rules.get(rule_class, 0), (rule_class,))
    yield Sample(c.RULES_INFO, 1, (snapshot.digest,))
    for name, size in snapshot.map_bytes.items():
        yield Sample(c.MAP_MEMORY, size, (name,))


def _worker_samples(tally: TallyFigures, cpus: Iterable[int]) -> Iterator[Sample]:
    for cpu in cpus:
        yield Sample(c.READ, tally.read.get(cpu, 0), (str(cpu),))
        yield Sample(c.UNDECODABLE, tally.undecodable.get(cpu, 0), (str(cpu),))
        yield Sample(c.UNMATCHED, tally.unmatched.get(cpu, 0), (str(cpu),))
        yield Sample(c.SAMPLED, tally.sampled.get(cpu, 0), (str(cpu),))
        yield Sample(c.QUARANTINED, tally.quarantined.get(cpu, 0), (str(cpu),))
        yield Sample(c.CONTEXT, tally.context.get(cpu, 0), (str(cpu),))


def _match_samples(snapshot: Snapshot) -> Iterator[Sample]:
    tally = snapshot.tally
    for name, (frames, size) in tally.matched.items():
        yield Sample(c.MATCHED, frames, (name,))
        yield Sample(c.MATCHED_BYTES, size, (name,))
    for rule_class in MATCH_CLASSES:
        yield Sample(c.MATCHES, tally.matches.get(rule_class, 0), (rule_class,))
        for outcome in c.OUTCOMES:
            yield Sample(
                c.EVIDENCE_MATCHES, snapshot.matches[outcome].get(rule_class, 0), (outcome, rule_class)
            )
    for labels, count in tally.rules:
        yield Sample(c.RULE_MATCHES, count, labels)
    for source in snapshot.costly_sources:
        yield Sample(c.COSTLY_CPU, source.demand, (source.address,))
        yield Sample(c.COSTLY_MATCHED, source.matched, (source.address,))
    yield Sample(c.TALKERS, tally.other_talkers, (OTHER,))
    for address, frames in tally.talkers.items():
        yield Sample(c.TALKERS, frames, (address,))


def _conversation_samples(snapshot: Snapshot) -> Iterator[Sample]:
    counters = snapshot.counters
    yield Sample(c.RECALLED, counters.recalled)
    for outcome in c.CONTEXT_OUTCOMES:
        yield Sample(c.EVIDENCE_CONTEXT, getattr(counters, f"context_{outcome}"), (outcome,))
    yield Sample(c.CONVERSATIONS, snapshot.conversations)
    yield Sample(c.CONVERSATIONS_OPEN, snapshot.conversations_open)
    for budget, matches in snapshot.conversations_refused.items():
        yield Sample(c.CONVERSATIONS_REFUSED, matches, (budget,))
    if snapshot.history_reach_s is not None:
        yield Sample(c.HISTORY_REACH, snapshot.history_reach_s)


def _index_samples(snapshot: Snapshot) -> Iterator[Sample]:
    index = snapshot.index
    yield Sample(c.INDEX_ROWS, index.rows)
    yield Sample(c.INDEX_WAITING, index.waiting)
    yield Sample(c.INDEX_MISSING, snapshot.index_missing)
    yield Sample(c.INDEX_FAILURES, index.failures)
    if index.changed_s is not None:
        yield Sample(c.INDEX_COMMITTED, index.changed_s)
    yield Sample(c.INDEX_COMPLETE, not (index.is_behind or snapshot.is_reindexing))
    yield Sample(c.REINDEX_REMAINING, snapshot.reindex_remaining)
    yield Sample(c.REINDEX_DONE, snapshot.reindex_done)
    for limit, (files, size) in snapshot.deleted.items():
        yield Sample(c.DELETED_FILES, files, (limit,))
        yield Sample(c.DELETED_BYTES, size, (limit,))
    for budget, frames in snapshot.suppressed.items():
        yield Sample(c.SUPPRESSED, frames, (budget,))
    yield Sample(c.RETENTION_FAILURES, snapshot.retention_failures)


def _receiver_samples(receivers: Iterable[ReceiverState]) -> Iterator[Sample]:
    for receiver in receivers:
        labels = (receiver.receiver,)
        yield Sample(c.EVENTS_SENT, receiver.sent, labels)
        yield Sample(c.EVENTS_LOST, receiver.lost, labels)
        yield Sample(c.EVENTS_WAITING, receiver.waiting, labels)
        yield Sample(c.EVENTS_CONNECTED, receiver.connected, labels)
        yield Sample(c.EVENTS_FILE_REPLACED, receiver.replaced, labels)


def _surroundings_samples(figures: SurroundingsFigures) -> Iterator[Sample]:
    if figures.clock_synchronised is not None:
        yield Sample(c.CLOCK_SYNCHRONISED, figures.clock_synchronised)
    if figures.api_up is not None:
        yield Sample(c.API_UP, figures.api_up)
    for file, expiry_s in figures.certificates.items():
        yield Sample(c.CERTIFICATES, expiry_s, (file,))


def _interface_samples(figures: InterfaceFigures) -> Iterator[Sample]:
    name = figures.name
    yield Sample(c.RECEIVED, figures.received.frames, (name,))
    yield Sample(c.RECEIVED_BYTES, figures.received.bytes, (name,))
    yield Sample(c.CARRIER, figures.received.has_carrier, (name,))
    for kind, frames in figures.losses.items():
        yield Sample(c.NIC_LOSS, frames, (name, kind))


def _softnet_samples(rows: Iterable[Softnet]) -> Iterator[Sample]:
    for row in rows:
        yield Sample(c.SOFTNET_DROPPED, row.dropped, (str(row.cpu),))
        yield Sample(c.SOFTNET_SQUEEZED, row.squeezed, (str(row.cpu),))


def _evidence_samples(figures: EvidenceFigures) -> Iterator[Sample]:
    yield Sample(c.FILES, figures.files)
    yield Sample(c.FILES_SIZE, figures.size)
    yield Sample(c.DISK_FREE, figures.disk_free)
    yield Sample(c.DISK_SIZE, figures.disk_size)
    if figures.oldest_s is not None:
        yield Sample(c.OLDEST, figures.oldest_s)


def _family(metric: Metric, samples: Iterable[Sample]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for sample in samples:
            if isinstance(sample.value, HistogramFigures):
                buckets = [(bound, float(count)) for bound, count in sample.value.cumulative]
                histogram.add_metric(sample.labels, buckets, sample.value.sum)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for sample in samples:
        if not isinstance(sample.value, HistogramFigures):
            family.add_metric(sample.labels, float(sample.value))
    return family
