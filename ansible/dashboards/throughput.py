"""*Loss and throughput*: whether the sums hold, where frames go, and what is lost on the way."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.parts import (
    BITS_A_SECOND,
    FRAMES,
    FRAMES_A_SECOND,
    HOST,
    INTERFACE,
    SECONDS,
    SHARE,
    AnyPanel,
    Steps,
    bars,
    board,
    by,
    lines,
    stats,
)

LINKED_FRAMES = 64
"""Frames that may be between two of a CPU's counts while these are read."""


def total(*names: str) -> str:
    """Return the sum of counters over all CPUs and interfaces, since the start."""
    return " + ".join(f"sum(sensor_{name}{{{HOST}}})" for name in names)


def outcome(name: str) -> str:
    """Return the frames of evidence that came to this."""
    return f'sum(sensor_evidence_frames_total{{{HOST},outcome="{name}"}})'


LAW = {
    "seen - ignored - submitted - lost": f"{total('seen_frames_total')} - ({total('ignored_frames_total')} + "
    f"{total('submitted_frames_total', 'submit_failed_frames_total')})",
    "submitted - read - in ring": f"{total('submitted_frames_total')} - "
    f"({total('read_frames_total', 'in_ring_frames')})",
    "read - undecodable - unmatched - matched": f"{total('read_frames_total')} - "
    f"({total('undecodable_frames_total', 'unmatched_frames_total', 'matched_frames_total')})",
    "matched - written - suppressed - write failed": f"{total('matched_frames_total')} - "
    f"({outcome('written')} + {outcome('suppressed')} + {outcome('write_failed')})",
}
BALANCED: Steps = {None: "red", -LINKED_FRAMES: "green", LINKED_FRAMES + 1: "red"}
LOST: Steps = {None: "green", 1: "red"}

WAY = {
    "received by the NIC": f"sum(sensor_interface_received_frames_total{{{HOST}}})",
    "seen by XDP": total("seen_frames_total"),
    "ignored: no rule can hit": total("ignored_frames_total"),
    "candidates lost: ring full": total("submit_failed_frames_total"),
    "candidates submitted": total("submitted_frames_total"),
    "undecodable": total("undecodable_frames_total"),
    "unmatched": total("unmatched_frames_total"),
    "matched": total("matched_frames_total"),
    "suppressed": outcome("suppressed"),
    "write failed": outcome("write_failed"),
    "written": outcome("written"),
}


def make() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = board(
        "Sensor: loss and throughput",
        "sensor-throughput",
        "Whether every frame is accounted for, where frames go, and what is lost.",
        interfaces=True,
    )
    for panel in (*_law(), *_throughput(), *_capacity()):
        made = made.with_panel(panel)
    return made


def _law() -> tuple[AnyPanel, ...]:
    return (
        stats(
            "The law of the counters",
            "Each line of the law as left side minus right side, since the start: 0, but for frames that are "
            "counted at this moment. Anything else is a bug worth reporting.",
            FRAMES,
            LAW,
            steps=BALANCED,
        ),
        bars(
            "Where frames go",
            "From NIC to evidence, frames since the start. A NIC receives before the sensor starts, too.",
            FRAMES,
            WAY,
        ),
        lines(
            "Lost",
            "Share of frames lost at each stage. Absent where nothing arrives.",
            SHARE,
            {
                "{{instance}} overall": f"instance:sensor_loss:ratio_rate1m{{{HOST}}}",
                "{{instance}} in the NIC": f"instance:sensor_interface_loss:ratio_rate1m{{{HOST}}}",
                "{{instance}} softnet": f"instance:sensor_softnet_loss:ratio_rate1m{{{HOST}}}",
                "{{instance}} ring full": f"instance:sensor_ring_loss:ratio_rate1m{{{HOST}}}",
                "{{instance}} not written": f"instance:sensor_evidence_loss:ratio_rate1m{{{HOST}}}",
            },
            limit=0.000001,
        ),
        stats(
            "Lost since the start",
            "Frames, exact: full rings, refused writes, and scans broken off for their cost.",
            FRAMES,
            {
                "ring full": total("submit_failed_frames_total"),
                "write failed": outcome("write_failed"),
                "scans cut": total("scans_cut_total"),
            },
            steps=LOST,
        ),
    )


def _throughput() -> tuple[AnyPanel, ...]:
    stages = {"offered": "seen", "ignored": "ignored", "candidates": "submitted", "matched": "matched"}
    return (
        lines(
            "Bits a second",
            "What XDP saw, what no rule can hit, what went to the workers, what matched.",
            BITS_A_SECOND,
            {
                f"{{{{instance}}}} {word}": f"instance:sensor_{name}_bits:rate1m{{{HOST}}}"
                for word, name in stages.items()
            },
        ),
        lines(
            "Frames a second",
            "What XDP saw, what no rule can hit, what went to the workers, what matched.",
            FRAMES_A_SECOND,
            {
                f"{{{{instance}}}} {word}": f"instance:sensor_{name}_frames:rate1m{{{HOST}}}"
                for word, name in stages.items()
            },
        ),
        lines(
            "Ignored, by reason",
            "Frames that no rule can hit.",
            FRAMES_A_SECOND,
            {"{{reason}}": by("reason", "ignored_frames")},
            stacked=True,
        ),
        lines(
            "Received, by interface",
            "What each NIC received, whatever became of it.",
            BITS_A_SECOND,
            {
                "{{instance}} {{interface}}": (
                    f"instance_interface:sensor_interface_received_bits:rate1m{{{INTERFACE}}}"
                )
            },
        ),
        lines(
            "Seen, by interface",
            "What the sensor saw of each, candidates or not.",
            FRAMES_A_SECOND,
            {"{{instance}} {{interface}}": by("instance, interface", "seen_frames", INTERFACE)},
        ),
        lines(
            "Lost to full rings, by interface",
            "Candidates that came by this interface and found their CPU's ring full.",
            FRAMES_A_SECOND,
            {"{{instance}} {{interface}}": by("instance, interface", "submit_failed_frames", INTERFACE)},
            limit=0.000001,
        ),
        lines(
            "Lost before XDP, by interface",
            "By the kernel's and the driver's names. rx_dropped counts also what the host had no use for; "
            "one loss may stand under several names.",
            FRAMES_A_SECOND,
            {
                "{{instance}} {{interface}} {{kind}}": (
                    f"rate(sensor_interface_lost_frames_total{{{INTERFACE}}}[$__rate_interval])"
                )
            },
        ),
        lines(
            "Seen, by CPU",
            "How receiving is spread; a CPU far above the others is a NIC whose hashing does not help.",
            FRAMES_A_SECOND,
            {
                "{{instance}} CPU {{cpu}}": (
                    f"sum by (instance, cpu) (rate(sensor_seen_frames_total{{{HOST}}}[$__rate_interval]))"
                )
            },
        ),
    )


def _capacity() -> tuple[AnyPanel, ...]:
    return (
        lines(
            "Ring, by CPU",
            "Share of the ring that is taken. A full ring loses frames.",
            SHARE,
            {"{{instance}} CPU {{cpu}}": f"sensor_ring_fill_ratio{{{HOST}}}"},
            limit=0.75,
        ),
        lines(
            "Softnet, by CPU",
            "Frames the kernel's backlog dropped (generic mode, and the host's own stack), and rounds of "
            "receiving that ended with work left. Of the whole host, not of the sensor alone.",
            FRAMES_A_SECOND,
            {
                "{{instance}} CPU {{cpu}} dropped": (
                    f"rate(sensor_softnet_dropped_frames_total{{{HOST}}}[$__rate_interval])"
                ),
                "{{instance}} CPU {{cpu}} squeezed": (
                    f"rate(sensor_softnet_squeezed_total{{{HOST}}}[$__rate_interval])"
                ),
            },
        ),
        lines(
            "Flows that begin, by place in the kernel's table",
            "unused, own, over: there was room. evicted: a flow that lived was forgotten for it, and more of "
            "its packets are matched than have to be; set flows higher. nowhere: two CPUs met.",
            FRAMES_A_SECOND,
            {"{{place}}": by("place", "flow_table_begun_flows")},
            stacked=True,
        ),
        lines(
            "Flow table",
            "Share of its places that have a flow, over or not: once full, it stays so. See what is evicted.",
            SHARE,
            {"{{instance}}": f"sensor_flow_table_entries{{{HOST}}} / sensor_flow_table_capacity{{{HOST}}}"},
        ),
        lines(
            "Time of a batch",
            "From the ring to the matches: half, and all but one in a hundred, take no longer.",
            SECONDS,
            _quantiles("batch_duration_seconds"),
        ),
        lines(
            "Time of matching a candidate",
            "Its share of its batch: half, and all but one in a hundred, take no longer.",
            SECONDS,
            _quantiles("match_duration_seconds"),
        ),
    )


def _quantiles(name: str) -> dict[str, str]:
    return {
        f"{{{{instance}}}} p{percent}": f"histogram_quantile({percent / 100}, sum by (instance, le) "
        f"(rate(sensor_{name}_bucket{{{HOST}}}[$__rate_interval])))"
        for percent in (50, 99)
    }
