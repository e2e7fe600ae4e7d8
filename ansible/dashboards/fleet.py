"""*Fleet*: all hosts side by side, the worst first."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.parts import BITS_A_SECOND, FRAMES, HOST, SECONDS, SHARE, AnyPanel, board, lines, rows, stats


def each(expression: str) -> str:
    """Return it by host."""
    return f"sum by (instance) ({expression})"


WORST = {
    "Lost since the start": each(f"sensor_submit_failed_frames_total{{{HOST}}}"),
    "Refused by the disk": each(f'sensor_evidence_frames_total{{{HOST},outcome="write_failed"}}'),
    "Frames/s": each(f"instance:sensor_seen_frames:rate1m{{{HOST}}}"),
    "Matched/s": each(f"instance:sensor_matched_frames:rate1m{{{HOST}}}"),
    "Worker restarts": each(f"sensor_worker_restarts_total{{{HOST}}}"),
    "Clock jumps": each(f"sensor_clock_jumps_total{{{HOST}}}"),
    "Figures missing": f"sum by (instance) (1 - sensor_source_up{{{HOST}}})",
}


def make() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = board("Sensor: fleet", "sensor-fleet", "All hosts, the worst first.")
    for panel in (*_now(), *_over_time()):
        made = made.with_panel(panel)
    return made


def _now() -> tuple[AnyPanel, ...]:
    return (
        stats(
            "Sensors",
            "Those that answer, and those that do not.",
            FRAMES,
            {
                "answer": f'sum(up{{job="sensor",{HOST}}})',
                "do not answer": f'count(up{{job="sensor",{HOST}}}) - sum(up{{job="sensor",{HOST}}})',
            },
            steps={None: "blue"},
        ),
        rows(
            "Hosts, the worst first",
            "Frames lost since the start put a host on top.",
            FRAMES,
            WORST,
        ),
        rows(
            "Versions and rules",
            "What runs where; hosts with another digest have other rules.",
            FRAMES,
            {
                "Rules": f"sum by (instance, digest) (sensor_rules_info{{{HOST}}}"
                f" * on (instance) group_left () {each(f'sensor_rules{{{HOST}}}')})",
                "Sensor": f"max by (instance, version, kernel) (sensor_build_info{{{HOST}}})",
            },
        ),
    )


def _over_time() -> tuple[AnyPanel, ...]:
    return (
        lines(
            "Lost",
            "Share of frames lost at any stage: NIC, ring, disk. The twelve worst hosts.",
            SHARE,
            {"{{instance}}": f"topk(12, instance:sensor_loss:ratio_rate1m{{{HOST}}})"},
            limit=0.000001,
        ),
        lines(
            "Offered",
            "What XDP saw.",
            BITS_A_SECOND,
            {"{{instance}}": f"instance:sensor_seen_bits:rate1m{{{HOST}}}"},
        ),
        lines(
            "Fullest ring",
            "Of each host, the share of its fullest ring that is taken.",
            SHARE,
            {"{{instance}}": f"max by (instance) (sensor_ring_fill_ratio{{{HOST}}})"},
            limit=0.75,
        ),
        lines(
            "Running for",
            "Time since the start; a fall is a restart.",
            SECONDS,
            {"{{instance}}": f"time() - sensor_start_timestamp_seconds{{{HOST}}}"},
        ),
    )
