"""Every metric: its name, type, help text, labels and number of series. Used in the exporter.

The table in ``docs/metrics.md`` is generated from this by ``python -m sensor.metrics.catalogue``.

Names follow OpenMetrics (https://prometheus.io/docs/specs/om/open_metrics_spec/): base units, and the
suffix ``_total`` for counters, which `Metric.written_name` adds.
"""

from __future__ import annotations

import sys

from sensor import abi
from sensor.evidence.budgets import BUDGET_NAMES
from sensor.evidence.retention import LIMIT_NAMES
from sensor.metrics.costly_sources import MOST_NAMED
from sensor.metrics.metric import Metric
from sensor.metrics.talkers import MOST_TALKERS
from sensor.metrics.tally import MATCH_CLASSES, MOST_RULES

REASONS = tuple(counter.name.removeprefix("IGNORED_").lower() for counter in abi.IGNORED)
CAUSES = tuple(loss.name.lower() for loss in abi.Loss)
FLOW_PLACES = tuple(place.name.lower() for place in abi.FlowPlace)
SUPPRESSING = ("flow", *BUDGET_NAMES)
OUTCOMES = ("written", "suppressed", "write_failed")
CONTEXT_OUTCOMES = ("written", "surplus", "failed")
HISTORY_FATES = tuple(fate.name.lower() for fate in abi.HistoryFate)
STATES = ("starting", "capturing", "draining")
SOURCES = ("supervisor", "kernel", "rings", "interfaces", "softnet", "evidence")


_CPU = ("cpu",), "CPUs"
_INTERFACE = ("interface",), "interfaces"
_BOTH = ("interface", "cpu"), "interfaces x CPUs"
_REASON = ("interface", "cpu", "reason"), f"interfaces x CPUs x {len(REASONS)}"
_CAUSE = ("interface", "cpu", "cause"), f"interfaces x CPUs x {len(CAUSES)}"
_RECEIVER = ("receiver",), "receivers"
_CLASS = ("rule_class",), str(len(MATCH_CLASSES))
_OUTCOME = ("outcome", "rule_class"), f"{len(OUTCOMES)} x {len(MATCH_CLASSES)}"
_LIMIT = ("limit",), str(len(LIMIT_NAMES))
_LOSS = ("interface", "kind"), "interfaces x counters of the driver"

# The law of the counters: seen = ignored + submitted + submit_failed; submitted = read + in_ring;
# submit_failed is the sum over its causes;
# read = undecodable + unmatched + sampled + quarantined + matched + context;
# matched = written + suppressed + write_failed;
# context + recalled = written + surplus + failed, of sensor_evidence_context_frames.
SEEN = Metric("sensor_seen_frames", "counter", "Frames seen by the XDP program.", *_BOTH)
SEEN_BYTES = Metric(
    "sensor_seen_bytes", "counter", "Bytes on the wire of the frames seen by the XDP program.", *_BOTH
)
IGNORED = Metric(
    "sensor_ignored_frames",
    "counter",
    "Frames ignored by the prefilter, by reason: no rule can match them.",
    *_REASON,
)
IGNORED_BYTES = Metric(
    "sensor_ignored_bytes", "counter", "Bytes on the wire of ignored frames, by reason.", *_REASON
)
SUBMITTED = Metric("sensor_submitted_frames", "counter", "Candidates put into a ring.", *_BOTH)
SUBMITTED_BYTES = Metric(
    "sensor_submitted_bytes", "counter", "Bytes on the wire of candidates put into a ring.", *_BOTH
)
LOST = Metric(
    "sensor_submit_failed_frames",
    "counter",
    "Candidates lost, by cause: ring_full; no_ring (the CPU has just come up); error.",
    *_CAUSE,
)
LOST_BYTES = Metric(
    "sensor_submit_failed_bytes",
    "counter",
    "Bytes on the wire of lost candidates.",
    *_BOTH,
)
IN_RING = Metric(
    "sensor_in_ring_frames", "gauge", "Candidates submitted but not yet reported by a worker.", *_CPU
)
READ = Metric("sensor_read_frames", "counter", "Candidates read by workers.", *_CPU)
UNDECODABLE = Metric(
    "sensor_undecodable_frames", "counter", "Candidates with malformed or unknown headers.", *_CPU
)
UNMATCHED = Metric("sensor_unmatched_frames", "counter", "Candidates that no rule matched.", *_CPU)
SAMPLED = Metric(
    "sensor_sampled_frames",
    "counter",
    "Candidates that were not matched, because their source had had its share of an overloaded worker.",
    *_CPU,
)
QUARANTINED = Metric(
    "sensor_quarantined_frames",
    "counter",
    "Candidates put aside, because workers die of them.",
    *_CPU,
)
MATCHED = Metric("sensor_matched_frames", "counter", "Candidates that became evidence.", *_INTERFACE)
MATCHED_BYTES = Metric(
    "sensor_matched_bytes", "counter", "Bytes on the wire of candidates that became evidence.", *_INTERFACE
)
EVIDENCE = Metric(
    "sensor_evidence_frames",
    "counter",
    "Matched frames, by outcome: written, suppressed or write_failed.",
    ("outcome",),
    str(len(OUTCOMES)),
)
CONTEXT = Metric(
    "sensor_context_frames", "counter", "Candidates kept as context, because their flow is followed.", *_CPU
)
RECALLED = Metric("sensor_recalled_frames", "counter", "Frames found in the history, as context of a match.")
EVIDENCE_CONTEXT = Metric(
    "sensor_evidence_context_frames",
    "counter",
    "Context of matches, by outcome: written; surplus (beyond the limits of its conversation, or there "
    "already); failed (not written).",
    ("outcome",),
    str(len(CONTEXT_OUTCOMES)),
)
CONVERSATIONS = Metric("sensor_conversations", "counter", "Conversations whose context is kept.")
CONVERSATIONS_OPEN = Metric("sensor_conversations_open", "gauge", "Conversations that are followed now.")
CONVERSATIONS_REFUSED = Metric(
    "sensor_conversations_refused",
    "counter",
    "Matches whose context was not kept, by the budget that was used up: source, rule or memory.",
    ("budget",),
    "3",
)
HISTORY = Metric(
    "sensor_history_frames",
    "counter",
    "Frames that the kernel's history asked for: kept; beyond (their flow has reached the cut-off); failed.",
    ("fate",),
    str(len(HISTORY_FATES)),
)
HISTORY_REACH = Metric(
    "sensor_history_reach_seconds",
    "gauge",
    "Age of the oldest frame in the history, of the CPU where it is youngest; absent without a history.",
)

MATCHES = Metric(
    "sensor_matches",
    "counter",
    "Matches by class of the rule; flow counts frames kept only for their flow.",
    *_CLASS,
)
EVIDENCE_MATCHES = Metric(
    "sensor_evidence_matches",
    "counter",
    "Matches by outcome of their frame and class of the rule.",
    *_OUTCOME,
)
RULE_MATCHES = Metric(
    "sensor_rule_matches",
    "counter",
    "Matches by rule; one series for each rule that matched early, other for the rest.",
    ("rule_class", "rule", "name"),
    f"rules that matched, at most {MOST_RULES} + 1",
)
TALKERS = Metric(
    "sensor_talker_matched_frames",
    "counter",
    "Matched frames by sending address; one series for each of the current top talkers, other for the rest.",
    ("address",),
    f"at most {MOST_TALKERS} + 1",
)
COSTLY_CPU = Metric(
    "sensor_costly_source_cpu_ratio",
    "gauge",
    "CPU time that it takes to match all packets of a source (IPv4 address or IPv6 /64), as a share of one "
    "CPU; one series for each of the costliest sources, other for the rest.",
    ("address",),
    f"at most {MOST_NAMED} + 1",
)
COSTLY_MATCHED = Metric(
    "sensor_costly_source_matched_ratio",
    "gauge",
    "Share of the source's packets that is matched, 0 to 1; below 1, the source is sampled.",
    ("address",),
    f"at most {MOST_NAMED} + 1",
)
CUT = Metric("sensor_payloads_cut", "counter", "Payloads whose search was stopped because of its cost.")

RING_FILL = Metric("sensor_ring_fill_ratio", "gauge", "Current fill of the ring, 0 to 1.", *_CPU)
RING_SIZE = Metric("sensor_ring_size_bytes", "gauge", "Size of each CPU's ring.")
RING_BACKLOG = Metric(
    "sensor_ring_backlog_ratio",
    "histogram",
    "Fill of the ring, 0 to 1, when a batch was read from it.",
    (),
    "8 + 2",
)
BATCH_TIME = Metric(
    "sensor_batch_duration_seconds", "histogram", "Time to read, decode and match a batch.", (), "11 + 2"
)
MATCH_TIME = Metric("sensor_match_duration_seconds", "histogram", "Time to match a candidate.", (), "11 + 2")

RECEIVED = Metric("sensor_interface_received_frames", "counter", "Frames received by the NIC.", *_INTERFACE)
RECEIVED_BYTES = Metric(
    "sensor_interface_received_bytes", "counter", "Bytes received by the NIC.", *_INTERFACE
)
NIC_LOSS = Metric(
    "sensor_interface_lost_frames",
    "counter",
    "Frames lost before or around XDP, by the counters of kernel and driver; several counters may "
    "count the same frame.",
    *_LOSS,
)
CARRIER = Metric("sensor_interface_carrier", "gauge", "1 if the interface has carrier, else 0.", *_INTERFACE)
ATTACHED = Metric(
    "sensor_interface_attached",
    "gauge",
    "1 if frames of the interface are captured; 0 if it was lost, and is attached again when it is back.",
    *_INTERFACE,
)
SOFTNET_DROPPED = Metric(
    "sensor_softnet_dropped_frames", "counter", "Frames dropped because the CPU's backlog was full.", *_CPU
)
SOFTNET_SQUEEZED = Metric(
    "sensor_softnet_squeezed",
    "counter",
    "Times the receive softirq ran out of budget with frames left.",
    *_CPU,
)

WORKERS = Metric("sensor_workers", "gauge", "Workers configured.")
WORKERS_ALIVE = Metric("sensor_workers_alive", "gauge", "Workers running.")
RESTARTS = Metric("sensor_worker_restarts", "counter", "Workers that died and were replaced.")

RULES = Metric("sensor_rules", "gauge", "Rules in force, by class.", ("rule_class",), "5")
RULES_INFO = Metric("sensor_rules_info", "gauge", "SHA-256 of the rules in force; always 1.", ("digest",))
LOADS_FAILED = Metric("sensor_rules_load_failures", "counter", "Failed loads of the rules.")
STALE = Metric(
    "sensor_rules_stale",
    "gauge",
    "1 if the last load of the rules failed and an older set is in force, else 0.",
)
LOAD_TIME = Metric(
    "sensor_rules_load_duration_seconds",
    "histogram",
    "Duration of successful loads of the rules.",
    (),
    "10 + 2",
)
LAST_LOAD = Metric(
    "sensor_rules_last_load_timestamp_seconds", "gauge", "Time of the last successful load of the rules."
)

FILES_REPLACED = Metric(
    "sensor_evidence_files_replaced", "counter", "Evidence files removed, replaced or cut while open."
)
SUPPRESSED = Metric(
    "sensor_evidence_suppressed_frames",
    "counter",
    "Suppressed frames: flow (suppress_above), source or rule (their budgets), space (too little for "
    "evidence without threats).",
    ("limit",),
    str(len(SUPPRESSING)),
)
FILES_FINISHED = Metric("sensor_evidence_files_finished", "counter", "Evidence files finished.")
FILES = Metric("sensor_evidence_files", "gauge", "Evidence files on disk.")
FILES_SIZE = Metric(
    "sensor_evidence_size_bytes",
    "gauge",
    "Size of the evidence files on disk; measured at least once per minute.",
)
OLDEST = Metric(
    "sensor_evidence_oldest_timestamp_seconds",
    "gauge",
    "Start of the oldest evidence file; absent if there is none.",
)
DISK_FREE = Metric(
    "sensor_evidence_disk_free_bytes", "gauge", "Free bytes of the file system with the evidence."
)
DISK_SIZE = Metric("sensor_evidence_disk_size_bytes", "gauge", "Size of the file system with the evidence.")

WRITES_FAIL = Metric(
    "sensor_evidence_writes_fail",
    "gauge",
    "1 from a failed write of evidence until writing works again, else 0.",
)
RETENTION = Metric(
    "sensor_evidence_retention_seconds",
    "gauge",
    "How long evidence is to be kept (retain_days); absent if that is unlimited.",
)
DELETED_FILES = Metric(
    "sensor_evidence_deleted_files",
    "counter",
    "Evidence files deleted by retention, by the limit that they were above.",
    *_LIMIT,
)
DELETED_BYTES = Metric(
    "sensor_evidence_deleted_bytes",
    "counter",
    "Bytes of evidence files deleted by retention, by the limit that they were above.",
    *_LIMIT,
)
RETENTION_FAILURES = Metric(
    "sensor_retention_failures", "counter", "Times retention failed to list or delete files."
)

INDEX_ROWS = Metric("sensor_index_rows", "counter", "Rows added to the index.")
INDEX_WAITING = Metric("sensor_index_waiting_rows", "gauge", "Rows waiting to be added to the index.")
INDEX_COMMITTED = Metric(
    "sensor_index_last_commit_timestamp_seconds",
    "gauge",
    "Time of the last successful write to the index; absent before the first.",
)
INDEX_MISSING = Metric(
    "sensor_index_missing_rows",
    "counter",
    "Rows that the indexer did not get in time, or died with; they are added from the files later.",
)
INDEX_FAILURES = Metric("sensor_index_failures", "counter", "Failed writes to the index.")
INDEX_COMPLETE = Metric(
    "sensor_index_complete",
    "gauge",
    "1 if the index has a row for every stored packet, 0 if rows may be missing.",
)
REINDEX_REMAINING = Metric(
    "sensor_reindex_remaining_bytes", "gauge", "Bytes of evidence files still to be reindexed."
)
REINDEX_DONE = Metric("sensor_reindex_done_bytes", "counter", "Bytes of evidence files reindexed.")

EVENTS_SENT = Metric("sensor_events_sent", "counter", "Events sent to the receiver.", *_RECEIVER)
EVENTS_LOST = Metric(
    "sensor_events_lost",
    "counter",
    "Events lost because the receiver was too slow or unreachable.",
    *_RECEIVER,
)
EVENTS_WAITING = Metric("sensor_events_waiting", "gauge", "Events waiting for the receiver.", *_RECEIVER)
EVENTS_CONNECTED = Metric(
    "sensor_events_connected", "gauge", "1 if the receiver is connected, else 0.", *_RECEIVER
)
EVENTS_FILE_REPLACED = Metric(
    "sensor_events_file_replaced",
    "counter",
    "Times the receiver's file was removed, renamed or replaced without a signal.",
    *_RECEIVER,
)

FLOWS = Metric(
    "sensor_flow_table_capacity", "gauge", "Number of flows that fit into the kernel's flow table."
)
FLOW_ENTRIES = Metric(
    "sensor_flow_table_entries",
    "gauge",
    "Entries of the flow table in use, by active or ended flows; entries are reused, never cleared.",
)
FLOWS_BEGUN = Metric(
    "sensor_flow_table_begun_flows",
    "counter",
    "New flows by the entry they got: unused; own (their own old entry); over (an ended flow's); "
    "evicted (an active flow's, which is forgotten); nowhere (two CPUs collided).",
    ("place",),
    str(len(FLOW_PLACES)),
)
MAP_MEMORY = Metric(
    "sensor_kernel_map_memory_bytes", "gauge", "Memory of a BPF map of the kernel.", ("map",), "maps"
)

STATE = Metric(
    "sensor_state", "gauge", "1 for the current state of the sensor, 0 for the others.", ("state",), "3"
)
STARTED = Metric("sensor_start_timestamp_seconds", "gauge", "Start time of the sensor.")
HEARTBEAT = Metric(
    "sensor_heartbeat_timestamp_seconds", "gauge", "Time at which the supervisor last published its figures."
)
CLOCK_JUMPS = Metric("sensor_clock_jumps", "counter", "Jumps of the wall clock by more than a second.")
CLOCK_SYNCHRONISED = Metric(
    "sensor_clock_synchronised",
    "gauge",
    "1 if a time service keeps the wall clock, 0 if none does; absent if the kernel does not say.",
)
API_UP = Metric(
    "sensor_api_up",
    "gauge",
    "1 if something answers HTTP at the address of the API, else 0; asked four times per minute.",
)
CERTIFICATES = Metric(
    "sensor_certificate_expiry_timestamp_seconds",
    "gauge",
    "Time when the first certificate in the file expires; absent if the file cannot be read.",
    ("file",),
    "certificates of API and receivers",
)
SOURCE_UP = Metric(
    "sensor_source_up",
    "gauge",
    "1 if the source of figures could be read; if 0, the metrics from it are absent.",
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
    """Return all metrics as a table in Markdown."""
    rows = [
        f"| `{metric.written_name}` | {metric.kind} | {', '.join(metric.labels) or 'none'} | {metric.series} "
        f"| {metric.help} |"
        for metric in METRICS
    ]
    return "\n".join(["| metric | type | labels | series | meaning |", "|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    sys.stdout.write(f"{as_table()}\n")
