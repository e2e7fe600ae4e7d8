"""The law of the counters: every frame ends in exactly one bucket.

Used in the supervisor and in ``sensor read``.

::

    seen      = ignored (by reason) + submitted + submit_failed    kernel
    submit_failed = ring_full + no_ring + error                    kernel
    submitted = read + in_ring                                     ring
    read      = undecodable + unmatched + sampled + quarantined + matched + context    worker
    matched   = written + suppressed + write_failed                writer
    context + recalled = context_written + context_surplus + context_failed    writer

``sensor read`` has a fourth bucket for matched frames, ``stored_before``, if a file was read before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of one moment, in frames."""

    seen: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    """Frames the prefilter ignored, by reason, as named in ``enum counter`` in ``bpf/abi.h``."""
    submitted: int = 0
    submit_failed: int = 0
    """Candidates that were lost before a worker could read them."""
    lost: dict[str, int] = field(default_factory=dict)
    """The frames of ``submit_failed`` by cause, as named in ``enum loss`` in ``bpf/abi.h``."""
    in_ring: int = 0
    read: int = 0
    undecodable: int = 0
    unmatched: int = 0
    sampled: int = 0
    """Not matched, because their source had had its share of an overloaded worker."""
    quarantined: int = 0
    """Not matched, because workers die of them."""
    matched: int = 0
    context: int = 0
    """Kept as context, because their flow is followed."""
    recalled: int = 0
    """Found in the history, as context of a match."""
    written: int = 0
    suppressed: int = 0
    write_failed: int = 0
    context_written: int = 0
    context_surplus: int = 0
    """Beyond the limits of their conversation, or there already."""
    context_failed: int = 0
    """Not written because of the disk."""
    remembered: int = 0
    """Frames that the kernel has put into its history; not part of the law."""
    cut: int = 0
    """Payloads whose search was stopped for its cost; not part of the law."""
    restarts: int = 0
    """Workers that died and were replaced; not frames, and not part of the law."""

    def equations(self) -> Iterator[tuple[str, str, int, int]]:
        """Yield each line of the law: its left side, its right side, and the sums of both."""
        ignored = sum(self.ignored.values())
        yield (
            "seen",
            "ignored + submitted + submit_failed",
            self.seen,
            (ignored + self.submitted + self.submit_failed),
        )
        yield "submit_failed", "ring_full + no_ring + error", self.submit_failed, sum(self.lost.values())
        yield "submitted", "read + in_ring", self.submitted, self.read + self.in_ring
        yield (
            "read",
            "undecodable + unmatched + sampled + quarantined + matched + context",
            self.read,
            self.undecodable + self.unmatched + self.sampled + self.quarantined + self.matched + self.context,
        )
        yield (
            "matched",
            "written + suppressed + write_failed",
            self.matched,
            (self.written + self.suppressed + self.write_failed),
        )
        yield (
            "context + recalled",
            "context_written + context_surplus + context_failed",
            self.context + self.recalled,
            (self.context_written + self.context_surplus + self.context_failed),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the counters by name, ready for JSON."""
        return asdict(self)

    def as_json(self) -> str:
        """Return all counters as one JSON object."""
        return json.dumps(self.as_dict())

    def as_json_of_files(self, *, kept: bool, stored_before: int = 0) -> str:
        """Return the counters that apply to capture files as one JSON object.

        The kernel, the rings and restarts have no part in them. Without ``kept``, nothing is written either.
        ``stored_before`` frames were stored when the same files were read before.
        """
        names = ["read", "undecodable", "unmatched", "matched", "suppressed"]
        names += ["written", "write_failed", "cut"] if kept else ["cut"]
        counters = self.as_dict()
        shown = {name: counters[name] for name in names}
        return json.dumps({**shown, "stored_before": stored_before} if stored_before else shown)
