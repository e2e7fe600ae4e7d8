"""The law of the counters: every frame ends in exactly one bucket; used by the commands and their tests.

::

    seen      = ignored (by reason) + submitted + submit_failed    kernel
    submitted = read + in_ring                                     ring
    read      = undecodable + unmatched + matched                  worker
    matched   = written + suppressed + write_failed                writer
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Counters:
    """One snapshot, in frames."""

    seen: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    """By reason, as ``enum counter`` in ``bpf/abi.h`` names them."""
    submitted: int = 0
    submit_failed: int = 0
    """Lost: the ring was full."""
    in_ring: int = 0
    read: int = 0
    undecodable: int = 0
    unmatched: int = 0
    matched: int = 0
    written: int = 0
    suppressed: int = 0
    write_failed: int = 0
    cut: int = 0
    """Not frames, and no part of the law: scans of long payloads that were broken off for their cost."""
    restarts: int = 0
    """Not frames either: workers that died and were replaced."""

    def equations(self) -> Iterator[tuple[str, str, int, int]]:
        """Each line of the law: the name of the left side, its right side, and both sums."""
        ignored = sum(self.ignored.values())
        yield (
            "seen",
            "ignored + submitted + submit_failed",
            self.seen,
            (ignored + self.submitted + self.submit_failed),
        )
        yield "submitted", "read + in_ring", self.submitted, self.read + self.in_ring
        yield (
            "read",
            "undecodable + unmatched + matched",
            self.read,
            (self.undecodable + self.unmatched + self.matched),
        )
        yield (
            "matched",
            "written + suppressed + write_failed",
            self.matched,
            (self.written + self.suppressed + self.write_failed),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the counters by name, ready for JSON."""
        return asdict(self)

    def as_json(self) -> str:
        """Return all counters as one JSON object."""
        return json.dumps(self.as_dict())
