"""Fetches the figures of a running sensor by HTTP, adds them up and turns them into rates.

Runs in ``sensor status``, unprivileged.
"""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from sensor.errors import SensorError
from sensor.metrics import catalogue as c
from sensor.metrics.metric import Metric
from sensor.text import shown

TIMEOUT_S = 5.0

STAGES: dict[str, tuple[Metric, Metric | None]] = {
    "seen": (c.SEEN, c.SEEN_BYTES),
    "ignored": (c.IGNORED, c.IGNORED_BYTES),
    "submitted": (c.SUBMITTED, c.SUBMITTED_BYTES),
    "submit_failed": (c.LOST, c.LOST_BYTES),
    "read": (c.READ, None),
    "undecodable": (c.UNDECODABLE, None),
    "unmatched": (c.UNMATCHED, None),
    "sampled": (c.SAMPLED, None),
    "quarantined": (c.QUARANTINED, None),
    "context": (c.CONTEXT, None),
    "matched": (c.MATCHED, c.MATCHED_BYTES),
}
"""Metrics of frames and, if there is one, of bytes at each stage, in the order a frame passes them."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The samples of one response."""

    asked_s: float
    """Time of the response, monotonic clock."""
    samples: dict[str, list[tuple[dict[str, str], float]]]

    def total(self, metric: Metric, **labels: str) -> float | None:
        """Return the sum of the series with these labels; None if there are none."""
        found = [
            value
            for has, value in self.samples.get(metric.written_name, [])
            if all(has.get(name) == text for name, text in labels.items())
        ]
        if not found:
            return None
        total = sum(found, 0.0)
        return int(total) if total.is_integer() else total

    def by(self, label: str, metric: Metric) -> dict[str, float]:
        """Return the sum for each value of a label."""
        texts = dict.fromkeys(has[label] for has, _ in self.samples.get(metric.written_name, []))
        return {text: self.total(metric, **{label: text}) or 0 for text in texts}

    @property
    def state(self) -> str:
        """The state of the sensor: one of `sensor.metrics.catalogue.STATES`, or ``unknown``."""
        return next((state for state, value in self.by("state", c.STATE).items() if value), "unknown")

    def rate(self, before: Figures, metric: Metric, **labels: str) -> float | None:
        """Return the growth of a counter per second; None if it is absent or the sensor was restarted."""
        now, then = self.total(metric, **labels), before.total(metric, **labels)
        if now is None or then is None or now < then:
            return None
        return (now - then) / (self.asked_s - before.asked_s)


def ask(address: str) -> Figures:
    """Return the figures of the sensor that serves its metrics at ``address:port``.

    Raises:
        SensorError: there is no answer, or it is not from a sensor.
    """
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        asked_s = time.monotonic()
        samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = {name: shown(label) for name, label in sample.labels.items()}
                samples.setdefault(sample.name, []).append((labels, sample.value))
    except OSError as error:
        raise SensorError(
            f"no sensor answers at {address} ({error.strerror or error}); start one with sensor run, "
            "or say where its metrics are: sensor status --metrics ADDRESS:PORT"
        ) from error
    except (http.client.HTTPException, ValueError) as error:
        raise SensorError(f"the server at {address} is not a sensor: {error}") from error
    finally:
        connection.close()
    if c.BUILD.written_name not in samples:
        raise SensorError(f"the server at {address} is not a sensor: it has no sensor_build_info metric")
    return Figures(asked_s, samples)


def as_object(before: Figures, now: Figures) -> dict[str, Any]:
    """Return totals and rates as an object for JSON; None stands for unknown values."""

    def counted(frames: Metric, size: Metric | None, **labels: str) -> dict[str, float | None]:
        found = {
            "frames": now.total(frames, **labels),
            "frames_per_second": now.rate(before, frames, **labels),
        }
        if size:
            bytes_per_second = now.rate(before, size, **labels)
            found["bytes"] = now.total(size, **labels)
            found["bits_per_second"] = None if bytes_per_second is None else 8 * bytes_per_second
        return found

    up = now.by("source", c.SOURCE_UP)
    return {
        "state": now.state,
        **{name: counted(frames, size) for name, (frames, size) in STAGES.items()},
        **{outcome: counted(c.EVIDENCE, None, outcome=outcome) for outcome in c.OUTCOMES},
        "in_ring": now.total(c.IN_RING),
        "ignored_by_reason": now.by("reason", c.IGNORED),
        "submit_failed_by_cause": now.by("cause", c.LOST),
        "matches_by_class": now.by("rule_class", c.MATCHES),
        "ring_fill_by_cpu": now.by("cpu", c.RING_FILL),
        "interfaces": {
            name: {
                **counted(c.RECEIVED, c.RECEIVED_BYTES, interface=name),
                "attached": bool(attached),
                "carrier": bool(now.total(c.CARRIER, interface=name)),
                "seen": counted(c.SEEN, c.SEEN_BYTES, interface=name),
                "submit_failed": counted(c.LOST, c.LOST_BYTES, interface=name),
            }
            for name, attached in now.by("interface", c.ATTACHED).items()
        },
        "flow_table": {
            "capacity": now.total(c.FLOWS),
            "entries": now.total(c.FLOW_ENTRIES),
            "begun_by_place": now.by("place", c.FLOWS_BEGUN),
        },
        "history": {
            "frames_by_fate": now.by("fate", c.HISTORY),
            "reach_s": now.total(c.HISTORY_REACH),
        },
        "conversations": {
            "opened": now.total(c.CONVERSATIONS),
            "open": now.total(c.CONVERSATIONS_OPEN),
            "refused_by_budget": now.by("budget", c.CONVERSATIONS_REFUSED),
            "recalled_frames": now.total(c.RECALLED),
            "context_frames_by_outcome": now.by("outcome", c.EVIDENCE_CONTEXT),
        },
        "workers": now.total(c.WORKERS),
        "workers_alive": now.total(c.WORKERS_ALIVE),
        "worker_restarts": now.total(c.RESTARTS),
        "rules": now.total(c.RULES),
        "rules_digest": next(iter(now.by("digest", c.RULES_INFO)), None),
        "rules_stale": bool(now.total(c.STALE)),
        "events": {
            receiver: {
                "connected": bool(connected),
                "sent": now.total(c.EVENTS_SENT, receiver=receiver),
                "waiting": now.total(c.EVENTS_WAITING, receiver=receiver),
                "lost": now.total(c.EVENTS_LOST, receiver=receiver),
                "file_replaced": now.total(c.EVENTS_FILE_REPLACED, receiver=receiver),
            }
            for receiver, connected in now.by("receiver", c.EVENTS_CONNECTED).items()
        },
        "index_complete": None if (is_complete := now.total(c.INDEX_COMPLETE)) is None else bool(is_complete),
        "index_failures": now.total(c.INDEX_FAILURES),
        "index_waiting_rows": now.total(c.INDEX_WAITING),
        "reindex_remaining_bytes": now.total(c.REINDEX_REMAINING),
        "costly_sources": {
            address: {
                "cpu_ratio": now.total(c.COSTLY_CPU, address=address),
                "matched_ratio": now.total(c.COSTLY_MATCHED, address=address),
            }
            for address in now.by("address", c.COSTLY_CPU)
        },
        "talkers": now.by("address", c.TALKERS),
        "clock_jumps": now.total(c.CLOCK_JUMPS),
        "evidence_files_replaced": now.total(c.FILES_REPLACED),
        "disk_free_bytes": now.total(c.DISK_FREE),
        "disk_size_bytes": now.total(c.DISK_SIZE),
        "oldest_evidence_s": now.total(c.OLDEST),
        "started_s": now.total(c.STARTED),
        "heartbeat_s": now.total(c.HEARTBEAT),
        "figures_missing": [name for name, value in up.items() if not value],
    }
