"""*Loss and throughput*: the law of the counters, where frames go, and where they are lost."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.parts import (
    BITS_PER_SECOND,
    FRAMES,
    FRAMES_PER_SECOND,
    HOST,
    INTERFACE,
    SECONDS,
    SHARE,
    AnyPanel,
    Steps,
    bars,
    by,
    empty_dashboard,
    lines,
    stats,
)

LINKED_FRAMES = 64
"""Tolerance for frames that are being counted while the counters are read."""


def total(*names: str) -> str:
    """Return an expression for counters since the start, summed over all CPUs and interfaces."""
    return " + ".join(f"sum(sensor_{name}{{{HOST}}})" for name in names)


def outcome(name: str) -> str:
    """Return an expression for the matched frames with an outcome."""
    return f'sum(sensor_evidence_frames_total{{{HOST},outcome="{name}"}})'


LAW = {
    "seen - ignored - submitted - lost": f"{total('seen_frames_total')} - ({total('ignored_frames_total')} + "
    f"{total('submitted_frames_total', 'submit_failed_frames_total')})",
    "submitted - read - in ring": f"{total('submitted_frames_total')} - "
    f"({total('read_frames_total', 'in_ring_frames')})",
    "read - undecodable - unmatched - sampled - quarantined - matched - context": (
        f"{total('read_frames_total')} - "
        f"({total('undecodable_frames_total', 'unmatched_frames_total', 'sampled_frames_total')} + "
        f"{total('quarantined_frames_total', 'matched_frames_total', 'context_frames_total')})"
    ),
    "matched - written - suppressed - write failed": f"{total('matched_frames_total')} - "
    f"({outcome('written')} + {outcome('suppressed')} + {outcome('write_failed')})",
    "context + recalled - written - surplus - failed": f"{total('context_frames_total')} + "
    f"{total('recalled_frames_total')} - {total('evidence_context_frames_total')}",
}
BALANCED: Steps = {None: "red", -LINKED_FRAMES: "green", LINKED_FRAMES + 1: "red"}
LOST: Steps = {None: "green", 1: "red"}

WAY = {
    "received by the NIC": f"sum(sensor_interface_received_frames_total{{{HOST}}})",
    "seen by XDP": total("seen_frames_total"),
    "ignored: no rule can match": total("ignored_frames_total"),
    "candidates lost": total("submit_failed_frames_total"),
    "candidates submitted": total("submitted_frames_total"),
    "undecodable": total("undecodable_frames_total"),
    "unmatched": total("unmatched_frames_total"),
    "sampled": total("sampled_frames_total"),
    "quarantined": total("quarantined_frames_total"),
    "context: after a match": total("context_frames_total"),
    "matched": total("matched_frames_total"),
    "suppressed": outcome("suppressed"),
    "write failed": outcome("write_failed"),
    "written": outcome("written"),
}


def make() -> dashboard.Dashboard:
    """Return the dashboard."""
    result = empty_dashboard(
        "Sensor: loss and throughput",
        "sensor-throughput",
        "The law of the counters, where frames go, and where they are lost.",
        interfaces=True,
    )
    for panel in (*_law(), *_throughput(), *_capacity()):
        result = result.with_panel(panel)
    return result


def _law() -> tuple[AnyPanel, ...]:
    return (
        stats(
            "The law of the counters",
            "Left side minus right side of each equation, since the start: 0, except for the few frames that "
            "are being counted right now. Anything else is a bug: please report it.",
            FRAMES,
            LAW,
            steps=BALANCED,
        ),
        bars(
            "Where frames go",
            "Frames since the start, from NIC to evidence. The NIC also counts frames from before the start.",
            FRAMES,
            WAY,
        ),
        lines(
            "Lost",
            "Share of frames lost at each stage; absent while nothing arrives.",
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
            "Exact numbers: frames lost to full rings, frames not written, and payloads cut for their cost.",
            FRAMES,
            {
                "ring full": total("submit_failed_frames_total"),
                "write failed": outcome("write_failed"),
                "payloads cut": total("payloads_cut_total"),
            },
            steps=LOST,
        ),
    )


def _throughput() -> tuple[AnyPanel, ...]:
    stages = {"offered": "seen", "ignored": "ignored", "candidates": "submitted", "matched": "matched"}
    return (
        lines(
            "Bits per second",
            "offered: seen by XDP; ignored: no rule can match; candidates: sent to the workers; matched.",
            BITS_PER_SECOND,
            {
                f"{{{{instance}}}} {word}": f"instance:sensor_{name}_bits:rate1m{{{HOST}}}"
                for word, name in stages.items()
            },
        ),
        lines(
            "Frames per second",
            "offered: seen by XDP; ignored: no rule can match; candidates: sent to the workers; matched.",
            FRAMES_PER_SECOND,
            {
                f"{{{{instance}}}} {word}": f"instance:sensor_{name}_frames:rate1m{{{HOST}}}"
                for word, name in stages.items()
            },
        ),
        lines(
            "Ignored, by reason",
            "Frames per second that no rule can match, by the prefilter's reason.",
            FRAMES_PER_SECOND,
            {"{{reason}}": by("reason", "ignored_frames")},
            stacked=True,
        ),
        lines(
            "Received, by interface",
            "Everything each NIC received, in bits per second.",
            BITS_PER_SECOND,
            {
                "{{instance}} {{interface}}": (
                    f"instance_interface:sensor_interface_received_bits:rate1m{{{INTERFACE}}}"
                )
            },
        ),
        lines(
            "Seen, by interface",
            "Frames per second that the sensor saw on each interface, candidates or not.",
            FRAMES_PER_SECOND,
            {"{{instance}} {{interface}}": by("instance, interface", "seen_frames", INTERFACE)},
        ),
        lines(
            "Lost to full rings, by interface",
            "Candidates per second from this interface that were lost, mostly to a full ring of their CPU.",
            FRAMES_PER_SECOND,
            {"{{instance}} {{interface}}": by("instance, interface", "submit_failed_frames", INTERFACE)},
            limit=0.000001,
        ),
        lines(
            "Lost before XDP, by interface",
            "Frames per second, by the counters of kernel and driver. rx_dropped also counts frames that the "
            "host had no use for; several counters may count the same frame.",
            FRAMES_PER_SECOND,
            {
                "{{instance}} {{interface}} {{kind}}": (
                    f"rate(sensor_interface_lost_frames_total{{{INTERFACE}}}[$__rate_interval])"
                )
            },
        ),
        lines(
            "Seen, by CPU",
            "How the NIC spreads traffic over the CPUs. One CPU far above the others: it spreads it badly.",
            FRAMES_PER_SECOND,
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
            "Fill of each ring. A full ring loses frames.",
            SHARE,
            {"{{instance}} CPU {{cpu}}": f"sensor_ring_fill_ratio{{{HOST}}}"},
            limit=0.75,
        ),
        lines(
            "Softnet, by CPU",
            "dropped: frames dropped from a full backlog (generic mode, and the host's own stack); squeezed: "
            "polls that ended with frames left. For the whole host, not only the sensor.",
            FRAMES_PER_SECOND,
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
            "New flows, by place in the flow table",
            "Flows per second. unused, own, over: there was room. evicted: an active flow was forgotten, and "
            "more of its packets are matched than necessary: raise flows. nowhere: two CPUs collided.",
            FRAMES_PER_SECOND,
            {"{{place}}": by("place", "flow_table_begun_flows")},
            stacked=True,
        ),
        lines(
            "Flow table",
            "Share of entries in use, by active or ended flows. Entries are never cleared, so a full table "
            "stays full; evictions show whether it is too small.",
            SHARE,
            {"{{instance}}": f"sensor_flow_table_entries{{{HOST}}} / sensor_flow_table_capacity{{{HOST}}}"},
        ),
        lines(
            "Costliest sources",
            "CPU time that it takes to match all packets of a source, as a share of one CPU; other: all "
            "sources that are not named.",
            SHARE,
            {"{{instance}} {{address}}": f"sensor_costly_source_cpu_ratio{{{HOST}}}"},
        ),
        lines(
            "Sampled",
            "Candidates per second that were not matched, because their source had had its share of an "
            "overloaded worker.",
            FRAMES_PER_SECOND,
            {"{{instance}}": by("instance", "sampled_frames")},
            limit=0.000001,
        ),
        lines(
            "Batch duration",
            "Time from ring to matches, median and 99th percentile.",
            SECONDS,
            _quantiles("batch_duration_seconds"),
        ),
        lines(
            "Matching time per candidate",
            "Time to match a candidate (its share of the batch), median and 99th percentile.",
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
