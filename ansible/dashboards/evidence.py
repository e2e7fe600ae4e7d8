"""*Evidence*: matches by class, rule, host and interface; the events; the disk and the index."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.parts import (
    BYTES,
    BYTES_PER_SECOND,
    FRAMES_PER_SECOND,
    HOST,
    INTERFACE,
    MATCHES,
    SECONDS,
    SHARE,
    AnyPanel,
    by,
    empty_dashboard,
    lines,
    rows,
)


def make() -> dashboard.Dashboard:
    """Return the dashboard."""
    result = empty_dashboard(
        "Sensor: evidence",
        "sensor-evidence",
        "What the rules match, and how it is stored.",
        interfaces=True,
    )
    for panel in (*_found(), *_kept()):
        result = result.with_panel(panel)
    return result


def _found() -> tuple[AnyPanel, ...]:
    by_rule = f"sum by (rule_class, rule, name) (increase(sensor_rule_matches_total{{{HOST}}}[$__range]))"
    return (
        lines(
            "Matches, by class",
            "Matches per second, by class of the rule; flow: frames kept only for their flow.",
            FRAMES_PER_SECOND,
            {"{{rule_class}}": by("rule_class", "matches")},
            stacked=True,
        ),
        lines(
            "Matches not kept, by class",
            "Matches per second whose frames were not stored. suppressed: above the limit per rule, flow and "
            "second (suppress_above); write_failed: writing to the disk failed.",
            FRAMES_PER_SECOND,
            {
                "{{outcome}} {{rule_class}}": by(
                    "outcome, rule_class", "evidence_matches", f'{HOST},outcome!="written"'
                )
            },
            stacked=True,
        ),
        rows(
            "Rules with the most matches",
            "The top 20 rules in the time range. Each host counts the first 200 rules that match one by one, "
            "the rest as other.",
            MATCHES,
            {"Matches": f"topk(20, {by_rule} > 0)"},
            width=12,
        ),
        rows(
            "Threats, by rule and host",
            "The top 20 threat rules in the time range, by host.",
            MATCHES,
            {
                "Matches": "topk(20, sum by (instance, rule, name) (increase(sensor_rule_matches_total"
                f'{{{HOST},rule_class="threat"}}[$__range])) > 0)'
            },
            width=12,
        ),
        rows(
            "Top talkers",
            "The 20 addresses that sent the most matched frames in the time range. Each host counts its 50 "
            "current top talkers one by one; for other addresses, search the evidence.",
            MATCHES,
            {
                "Frames": "topk(20, sum by (address) (increase(sensor_talker_matched_frames_total"
                f'{{{HOST},address!="other"}}[$__range])) > 0)'
            },
            width=12,
        ),
        lines(
            "Matched frames from other addresses",
            "Matched frames per second from addresses that are not among the top talkers. A rise means many "
            "senders, or forged addresses.",
            FRAMES_PER_SECOND,
            {"{{instance}}": by("instance", "talker_matched_frames", f'{HOST},address="other"')},
        ),
        lines(
            "Matched frames, by interface",
            "Frames per second that a rule matched.",
            FRAMES_PER_SECOND,
            {"{{instance}} {{interface}}": by("instance, interface", "matched_frames", INTERFACE)},
        ),
        lines(
            "Matched frames, by outcome",
            "Frames per second. written: stored in a file; suppressed: above the limit per rule, flow and "
            "second; write_failed: writing to the disk failed.",
            FRAMES_PER_SECOND,
            {"{{outcome}}": by("outcome", "evidence_frames")},
        ),
    )


def _kept() -> tuple[AnyPanel, ...]:
    return (
        lines(
            "Events sent, by receiver",
            "Events per second sent, and lost because the receiver was unreachable or too slow.",
            FRAMES_PER_SECOND,
            {
                "{{instance}} {{receiver}} sent": by("instance, receiver", "events_sent"),
                "{{instance}} {{receiver}} lost": by("instance, receiver", "events_lost"),
            },
        ),
        lines(
            "Events waiting, by receiver",
            "Events in the queue of each receiver.",
            MATCHES,
            {"{{instance}} {{receiver}}": f"sensor_events_waiting{{{HOST}}}"},
        ),
        lines(
            "Free disk space for evidence",
            "Free share of the file system with the evidence.",
            SHARE,
            {
                "{{instance}}": " / ".join(
                    f"sensor_evidence_disk_{what}_bytes{{{HOST}}}" for what in ("free", "size")
                )
            },
        ),
        lines(
            "Size of the evidence",
            "Size of all evidence files of the sensor, without the index.",
            BYTES,
            {"{{instance}}": f"sensor_evidence_size_bytes{{{HOST}}}"},
        ),
        lines(
            "Age of the oldest evidence",
            "How far the evidence files go back.",
            SECONDS,
            {"{{instance}}": f"time() - sensor_evidence_oldest_timestamp_seconds{{{HOST}}}"},
        ),
        lines(
            "Deleted by retention, by limit",
            "Bytes per second, by the setting that caused it. age: retain_days; size: retain_gib; class: "
            "retain_threat_gib; free and "
            "inodes: retain_free_percent.",
            BYTES_PER_SECOND,
            {"{{instance}} {{limit}}": by("instance, limit", "evidence_deleted_bytes")},
        ),
        lines(
            "Index",
            "Rows added to the index per second, and rows waiting: searches do not find these yet.",
            MATCHES,
            {
                "{{instance}} rows/s": by("instance", "index_rows"),
                "{{instance}} waiting": f"sensor_index_waiting_rows{{{HOST}}}",
            },
        ),
        lines(
            "Evidence to be reindexed",
            "Bytes of evidence files that the index does not cover, after a crash or the loss of the index.",
            BYTES,
            {"{{instance}}": f"sensor_reindex_remaining_bytes{{{HOST}}}"},
        ),
        lines(
            "Evidence files",
            "Files on disk, and files finished since the start.",
            MATCHES,
            {
                "{{instance}} on disk": f"sensor_evidence_files{{{HOST}}}",
                "{{instance}} finished": f"sensor_evidence_files_finished_total{{{HOST}}}",
            },
        ),
    )
