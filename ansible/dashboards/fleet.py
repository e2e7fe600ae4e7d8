"""*Fleet*: all hosts side by side, worst first."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.parts import (
    BITS_PER_SECOND,
    FRAMES,
    HOST,
    SECONDS,
    SHARE,
    AnyPanel,
    empty_dashboard,
    lines,
    rows,
    stats,
)


def each(expression: str) -> str:
    """Return the sum of an expression by host."""
    return f"sum by (instance) ({expression})"


WORST = {
    "Lost since the start": each(f"sensor_submit_failed_frames_total{{{HOST}}}"),
    "Not written to disk": each(f'sensor_evidence_frames_total{{{HOST},outcome="write_failed"}}'),
    "Frames/s": each(f"instance:sensor_seen_frames:rate1m{{{HOST}}}"),
    "Matched/s": each(f"instance:sensor_matched_frames:rate1m{{{HOST}}}"),
    "Worker restarts": each(f"sensor_worker_restarts_total{{{HOST}}}"),
    "Clock jumps": each(f"sensor_clock_jumps_total{{{HOST}}}"),
    "Figures missing": f"sum by (instance) (1 - sensor_source_up{{{HOST}}})",
}


def make() -> dashboard.Dashboard:
    """Return the dashboard."""
    result = empty_dashboard("Sensor: fleet", "sensor-fleet", "All hosts, worst first.")
    for panel in (*_now(), *_over_time()):
        result = result.with_panel(panel)
    return result


def _now() -> tuple[AnyPanel, ...]:
    return (
        stats(
            "Sensors",
            "Sensors that Prometheus reaches, and sensors that it does not.",
            FRAMES,
            {
                "answer": f'sum(up{{job="sensor",{HOST}}})',
                "do not answer": f'count(up{{job="sensor",{HOST}}}) - sum(up{{job="sensor",{HOST}}})',
            },
            steps={None: "blue"},
        ),
        rows(
            "Hosts, worst first",
            "Sorted by frames lost to full rings since the start.",
            FRAMES,
            WORST,
        ),
        rows(
            "Versions and rules",
            "Version and rule set of each host; hosts with different digests have different rules.",
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
            "Share of frames lost at any stage (NIC, ring, disk), for the 12 worst hosts.",
            SHARE,
            {"{{instance}}": f"topk(12, instance:sensor_loss:ratio_rate1m{{{HOST}}})"},
            limit=0.000001,
        ),
        lines(
            "Offered",
            "Traffic that XDP saw, in bits per second.",
            BITS_PER_SECOND,
            {"{{instance}}": f"instance:sensor_seen_bits:rate1m{{{HOST}}}"},
        ),
        lines(
            "Fullest ring",
            "Fill of the fullest ring of each host. A full ring loses frames.",
            SHARE,
            {"{{instance}}": f"max by (instance) (sensor_ring_fill_ratio{{{HOST}}})"},
            limit=0.75,
        ),
        lines(
            "Uptime",
            "Time since the sensor started; a drop to 0 is a restart.",
            SECONDS,
            {"{{instance}}": f"time() - sensor_start_timestamp_seconds{{{HOST}}}"},
        ),
    )
