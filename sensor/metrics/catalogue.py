"""Every metric: name, type, labels, and how many series it makes; ``docs/metrics.md`` is made from this.

Names follow OpenMetrics (https://prometheus.io/docs/specs/om/open_metrics_spec/): base units, and
``_total`` behind counters, which is added where they are written.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from sensor import abi
from sensor.evidence.retention import REASONS as DELETED_FOR
from sensor.metrics.talkers import MOST_TALKERS
from sensor.metrics.tally import MATCH_CLASSES, MOST_RULES

Kind = Literal["counter", "gauge", "histogram"]

REASONS = tuple(counter.name.removeprefix("IGNORED_").lower() for counter in abi.IGNORED)
FLOW_PLACES = tuple(place.name.lower() for place in abi.FlowPlace)
OUTCOMES = ("written", "suppressed", "write_failed")
STATES = ("starting", "capturing", "draining")
SOURCES = ("supervisor", "kernel", "rings", "interfaces", "softnet", "evidence")


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of series."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    series: str = "1"
    """How many there are at most."""

    @property
    def written_name(self) -> str:
        """As it stands in the exposition and in expressions."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


_CPU = ("cpu",), "CPUs"
_INTERFACE = ("interface",), "interfaces"
_BOTH = ("interface", "cpu"), "interfaces x CPUs"
_REASON = ("interface", "cpu", "reason"), f"interfaces x CPUs x {len(REASONS)}"
_RECEIVER = ("receiver",), "receivers of the settings"
_CLASS = ("rule_class",), str(len(MATCH_CLASSES))
_OUTCOME = ("outcome", "rule_class"), f"{len(OUTCOMES)} x {len(MATCH_CLASSES)}"
_DELETED_FOR = ("reason",), str(len(DELETED_FOR))
_LOSS = ("interface", "kind"), "interfaces x the driver's kinds"

# The law of the counters: seen = ignored + submitted + submit_failed; submitted = read + in_ring;
# read = undecodable + unmatched + matched; matched = written + suppressed + write_failed.
SEEN = Metric("sensor_seen_frames", "counter", "Frames that the XDP program saw.", *_BOTH)
SEEN_BYTES = Metric("sensor_seen_bytes", "counter", "Their bytes on the wire.", *_BOTH)
IGNORED = Metric("sensor_ignored_frames", "counter", "Frames that no rule can hit, by reason.", *_REASON)
IGNORED_BYTES = Metric("sensor_ignored_bytes", "counter", "Their bytes on the wire.", *_REASON)
SUBMITTED = Metric("sensor_submitted_frames", "counter", "Candidates that were put into a ring.", *_BOTH)
SUBMITTED_BYTES = Metric("sensor_submitted_bytes", "counter", "Their bytes on the wire.", *_BOTH)
LOST = Metric("sensor_submit_failed_frames", "counter", "Candidates lost: the ring was full.", *_BOTH)
LOST_BYTES = Metric("sensor_submit_failed_bytes", "counter", "Their bytes on the wire.", *_BOTH)
IN_RING = Metric(
    "sensor_in_ring_frames", "gauge", "Candidates submitted that no worker has reported yet.", *_CPU
)
READ = Metric("sensor_read_frames", "counter", "Candidates that workers read.", *_CPU)
UNDECODABLE = Metric(
    "sensor_undecodable_frames", "counter", "Candidates whose headers are not known or lie.", *_CPU
)
UNMATCHED = Metric("sensor_unmatched_frames", "counter", "Candidates that no rule hit.", *_CPU)
MATCHED = Metric("sensor_matched_frames", "counter", "Candidates that became evidence.", *_INTERFACE)
MATCHED_BYTES = Metric("sensor_matched_bytes", "counter", "Their bytes on the wire.", *_INTERFACE)
EVIDENCE = Metric(
    "sensor_evidence_frames",
    "counter",
    "Matched frames by what became of them: written, suppressed, or write_failed.",
    ("outcome",),
    str(len(OUTCOMES)),
)

MATCHES = Metric("sensor_matches", "counter", "Matches by class of rule; flow: kept without one.", *_CLASS)
EVIDENCE_MATCHES = Metric(
    "sensor_evidence_matches", "counter", "Matches by what became of their frames.", *_OUTCOME
)
RULE_MATCHES = Metric(
    "sensor_rule_matches",
    "counter",
    "Matches by rule; one at a time for those that hit first, other for the rest.",
    ("rule_class", "rule", "name"),
    f"rules that hit, at most {MOST_RULES} + 1",
)
TALKERS = Metric(
    "sensor_talker_matched_frames",
    "counter",
    "Matched frames by the address that sent them, of those that send most at this time; other for the rest.",
    ("address",),
    f"at most {MOST_TALKERS} + 1",
)
CUT = Metric("sensor_scans_cut", "counter", "Scans of long payloads that were broken off for their cost.")

RING_FILL = Metric("sensor_ring_fill_ratio", "gauge", "Share of the ring that is taken now, 0 to 1.", *_CPU)
RING_SIZE = Metric("sensor_ring_size_bytes", "gauge", "Size of each CPU's ring.")
RING_BACKLOG = Metric(
    "sensor_ring_backlog_ratio", "histogram", "Share of the ring taken when a batch was read.", (), "8 + 2"
)
BATCH_TIME = Metric("sensor_batch_duration_seconds", "histogram", "From ring to matches.", (), "11 + 2")
MATCH_TIME = Metric(
    "sensor_match_duration_seconds", "histogram", "Time of matching a candidate.", (), "11 + 2"
)

RECEIVED = Metric("sensor_interface_received_frames", "counter", "Frames the NIC received.", *_INTERFACE)
RECEIVED_BYTES = Metric("sensor_interface_received_bytes", "counter", "Their bytes.", *_INTERFACE)
NIC_LOSS = Metric(
    "sensor_interface_lost_frames",
    "counter",
    "Frames lost before or around XDP, by the kernel's and the driver's names; some are counted twice.",
    *_LOSS,
)
CARRIER = Metric("sensor_interface_carrier", "gauge", "1 where the interface has carrier.", *_INTERFACE)
SOFTNET_DROPPED = Metric("sensor_softnet_dropped_frames", "counter", "Backlog full: frames lost.", *_CPU)
SOFTNET_SQUEEZED = Metric(
    "sensor_softnet_squeezed", "counter", "Rounds of receiving that ended with work left.", *_CPU
)

WORKERS = Metric("sensor_workers", "gauge", "Workers that are to run.")
WORKERS_ALIVE = Metric("sensor_workers_alive", "gauge", "Workers that run.")
RESTARTS = Metric("sensor_worker_restarts", "counter", "Workers that died and were replaced.")

RULES = Metric("sensor_rules", "gauge", "Rules in force, by class.", ("rule_class",), "5")
RULES_INFO = Metric("sensor_rules_info", "gauge", "SHA-256 of the rules in force; always 1.", ("digest",))
LOADS_FAILED = Metric("sensor_rules_load_failures", "counter", "Loads of the rules that failed.")
STALE = Metric("sensor_rules_stale", "gauge", "1 where the last load failed: older rules are in force.")
LOAD_TIME = Metric(
    "sensor_rules_load_duration_seconds", "histogram", "Of loads that succeeded.", (), "10 + 2"
)
LAST_LOAD = Metric(
    "sensor_rules_last_load_timestamp_seconds", "gauge", "When rules were last loaded with success."
)

FILES_FINISHED = Metric("sensor_evidence_files_finished", "counter", "Evidence files finished.")
FILES = Metric("sensor_evidence_files", "gauge", "Evidence files on disk.")
FILES_SIZE = Metric("sensor_evidence_size_bytes", "gauge", "Their size; measured once a minute at least.")
OLDEST = Metric(
    "sensor_evidence_oldest_timestamp_seconds", "gauge", "Start of the oldest file; absent without one."
)
DISK_FREE = Metric("sensor_evidence_disk_free_bytes", "gauge", "Free on the evidence's file system.")
DISK_SIZE = Metric("sensor_evidence_disk_size_bytes", "gauge", "Size of the evidence's file system.")

DELETED_FILES = Metric(
    "sensor_retention_deleted_files", "counter", "Evidence files deleted by retention.", *_DELETED_FOR
)
DELETED_BYTES = Metric("sensor_retention_deleted_bytes", "counter", "Their size.", *_DELETED_FOR)
RETENTION_FAILURES = Metric(
    "sensor_retention_failures", "counter", "Times that retention could not look or delete."
)

INDEX_ROWS = Metric("sensor_index_rows", "counter", "Packets that were brought into the index.")
INDEX_WAITING = Metric("sensor_index_waiting_rows", "gauge", "Packets that wait for the index.")
INDEX_COMMITTED = Metric(
    "sensor_index_last_commit_timestamp_seconds",
    "gauge",
    "When the index was last written with success; absent before.",
)
INDEX_FAILURES = Metric("sensor_index_failures", "counter", "Changes of the index that could not be made.")
INDEX_COMPLETE = Metric(
    "sensor_index_complete", "gauge", "0 as long as packets of the files may be missing in the index."
)
REINDEX_REMAINING = Metric(
    "sensor_reindex_remaining_bytes", "gauge", "Of evidence files, that are to be indexed anew."
)
REINDEX_DONE = Metric("sensor_reindex_done_bytes", "counter", "Of evidence files, indexed anew.")

EVENTS_SENT = Metric("sensor_events_sent", "counter", "Events handed to a receiver.", *_RECEIVER)
EVENTS_LOST = Metric(
    "sensor_events_lost", "counter", "Events a receiver was too slow for, or away.", *_RECEIVER
)
EVENTS_WAITING = Metric("sensor_events_waiting", "gauge", "Events that wait for a receiver.", *_RECEIVER)
EVENTS_CONNECTED = Metric("sensor_events_connected", "gauge", "1 where a receiver is there.", *_RECEIVER)

FLOWS = Metric("sensor_flow_table_capacity", "gauge", "Flows that the kernel can remember.")
FLOW_ENTRIES = Metric(
    "sensor_flow_table_entries",
    "gauge",
    "Places of the table that have a flow, over or not: they are given to other flows, never cleared.",
)
FLOWS_BEGUN = Metric(
    "sensor_flow_table_begun_flows",
    "counter",
    "Flows that began, by the place they were given: unused; their own, of an earlier time; that of a flow "
    "that was over; evicted: of one that was not, and is forgotten; nowhere: two CPUs met.",
    ("place",),
    str(len(FLOW_PLACES)),
)
MAP_MEMORY = Metric(
    "sensor_kernel_map_memory_bytes", "gauge", "What the kernel's maps take.", ("map",), "the maps"
)

STATE = Metric("sensor_state", "gauge", "1 for the state it is in, 0 for the others.", ("state",), "3")
STARTED = Metric("sensor_start_timestamp_seconds", "gauge", "When this sensor started.")
HEARTBEAT = Metric(
    "sensor_heartbeat_timestamp_seconds", "gauge", "When the supervisor published its figures last."
)
CLOCK_JUMPS = Metric("sensor_clock_jumps", "counter", "Jumps of the wall clock by more than a second.")
SOURCE_UP = Metric(
    "sensor_source_up",
    "gauge",
    "0 where a source of figures could not be read: its metrics are absent then, never 0.",
    ("source",),
    str(len(SOURCES)),
)
BUILD = Metric(
    "sensor_build_info",
    "gauge",
    "Versions; always 1.",
    ("version", "kernel", "python", "bcc", "hyperscan"),
)

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def as_table() -> str:
    """All of it as a table in Markdown."""
    rows = [
        f"| `{metric.written_name}` | {metric.kind} | {', '.join(metric.labels) or 'none'} | {metric.series} "
        f"| {metric.help} |"
        for metric in METRICS
    ]
    return "\n".join(["| metric | type | labels | series | meaning |", "|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    sys.stdout.write(f"{as_table()}\n")
