"""*Evidence*: what is found, by class, rule, host and interface, and the disk that holds it."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.parts import (
    BYTES,
    BYTES_A_SECOND,
    FRAMES_A_SECOND,
    HOST,
    INTERFACE,
    MATCHES,
    SECONDS,
    SHARE,
    AnyPanel,
    board,
    by,
    lines,
    rows,
)


def make() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = board(
        "Sensor: evidence",
        "sensor-evidence",
        "What is found, and where it is kept.",
        interfaces=True,
    )
    for panel in (*_found(), *_kept()):
        made = made.with_panel(panel)
    return made


def _found() -> tuple[AnyPanel, ...]:
    by_rule = f"sum by (rule_class, rule, name) (increase(sensor_rule_matches_total{{{HOST}}}[$__range]))"
    return (
        lines(
            "Matches, by class",
            "Matches a second by class of rule; flow: frames kept for their flow alone.",
            FRAMES_A_SECOND,
            {"{{rule_class}}": by("rule_class", "matches")},
            stacked=True,
        ),
        lines(
            "Matches not kept, by class",
            "suppressed: their frames are more of a rule and flow in a second than is kept; write_failed: "
            "the disk refused them.",
            FRAMES_A_SECOND,
            {
                "{{outcome}} {{rule_class}}": by(
                    "outcome, rule_class", "evidence_matches", f'{HOST},outcome!="written"'
                )
            },
            stacked=True,
        ),
        rows(
            "Rules that hit most",
            "Twenty rules in the time shown. Of each host the 200 that hit first are told apart; the rest "
            "is other.",
            MATCHES,
            {"Matches": f"topk(20, {by_rule} > 0)"},
            width=12,
        ),
        rows(
            "Threats, by rule and host",
            "Threat rules that hit in the time shown.",
            MATCHES,
            {
                "Matches": "topk(20, sum by (instance, rule, name) (increase(sensor_rule_matches_total"
                f'{{{HOST},rule_class="threat"}}[$__range])) > 0)'
            },
            width=12,
        ),
        rows(
            "Top talkers",
            "Addresses that sent most matched frames in the time shown. Each host tells 50 apart, those that "
            "send most at the time; for all others, ask the evidence itself.",
            MATCHES,
            {
                "Frames": "topk(20, sum by (address) (increase(sensor_talker_matched_frames_total"
                f'{{{HOST},address!="other"}}[$__range])) > 0)'
            },
            width=12,
        ),
        lines(
            "Matched frames of senders that are not told apart",
            "What the table of talkers does not have. A rise without a talker that explains it: many "
            "senders, or forged addresses.",
            FRAMES_A_SECOND,
            {"{{instance}}": by("instance", "talker_matched_frames", f'{HOST},address="other"')},
        ),
        lines(
            "Matched frames, by interface",
            "Frames a second that became evidence.",
            FRAMES_A_SECOND,
            {"{{instance}} {{interface}}": by("instance, interface", "matched_frames", INTERFACE)},
        ),
        lines(
            "What became of matched frames",
            "written: in a file; suppressed: more of a rule and flow in a second than is kept; "
            "write_failed: the disk refused.",
            FRAMES_A_SECOND,
            {"{{outcome}}": by("outcome", "evidence_frames")},
        ),
    )


def _kept() -> tuple[AnyPanel, ...]:
    return (
        lines(
            "Events sent, by receiver",
            "Events a second, and those lost: the receiver was away, or too slow.",
            FRAMES_A_SECOND,
            {
                "{{instance}} {{receiver}} sent": by("instance, receiver", "events_sent"),
                "{{instance}} {{receiver}} lost": by("instance, receiver", "events_lost"),
            },
        ),
        lines(
            "Events that wait, by receiver",
            "Events for which a receiver had no time yet.",
            MATCHES,
            {"{{instance}} {{receiver}}": f"sensor_events_waiting{{{HOST}}}"},
        ),
        lines(
            "Free on the evidence's disk",
            "Share of the file system that is free.",
            SHARE,
            {
                "{{instance}}": " / ".join(
                    f"sensor_evidence_disk_{what}_bytes{{{HOST}}}" for what in ("free", "size")
                )
            },
        ),
        lines(
            "Size of the evidence",
            "All evidence files of the sensor, without their index.",
            BYTES,
            {"{{instance}}": f"sensor_evidence_size_bytes{{{HOST}}}"},
        ),
        lines(
            "How far the evidence reaches back",
            "Age of the oldest file.",
            SECONDS,
            {"{{instance}}": f"time() - sensor_evidence_oldest_timestamp_seconds{{{HOST}}}"},
        ),
        lines(
            "Deleted by retention, by reason",
            "Bytes a second; age, size, free: retain_days, retain_gib, retain_free_percent.",
            BYTES_A_SECOND,
            {"{{instance}} {{reason}}": by("instance, reason", "retention_deleted_bytes")},
        ),
        lines(
            "Index",
            "Packets a second that came into the index, and those that wait for it: not found yet.",
            MATCHES,
            {
                "{{instance}} rows/s": by("instance", "index_rows"),
                "{{instance}} waiting": f"sensor_index_waiting_rows{{{HOST}}}",
            },
        ),
        lines(
            "To be indexed anew",
            "Bytes of evidence files whose packets are not in the index: after a kill, or when it was lost.",
            BYTES,
            {"{{instance}}": f"sensor_reindex_remaining_bytes{{{HOST}}}"},
        ),
        lines(
            "Evidence files",
            "Files on disk, and those finished since the start.",
            MATCHES,
            {
                "{{instance}} on disk": f"sensor_evidence_files{{{HOST}}}",
                "{{instance}} finished": f"sensor_evidence_files_finished_total{{{HOST}}}",
            },
        ),
    )
