"""The result of a batch: counts of its frames, and their evidence.

Made where frames are processed, in a worker, and handled by the supervisor.
"""

from __future__ import annotations

from typing import NamedTuple

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.quarantine import QuarantinedFrame


class BatchReport(NamedTuple):
    """The result of one turn of a batch, or of a frame that was put in quarantine."""

    cpu: int
    tail: int
    """Tail position of that CPU's ring once these frames are released."""
    read: int
    undecodable: int
    unmatched: int
    cut: int
    """Payloads whose search was cut for its cost."""
    block: EvidenceBlock | None
    """None if there is no evidence."""
    batch_ns: int = 0
    """Wall-clock time from the ring to the evidence; 0 for a frame in quarantine."""
    match_ns: int = 0
    """The part of ``batch_ns`` spent on matching."""
    fill: float = 0.0
    """How full the ring was when the batch was read, 0 to 1."""
    sampled: int = 0
    """Frames that were not matched because their source had had its share of an overloaded worker."""
    quarantined: QuarantinedFrame | None = None
    """The only frame, if it was not matched because workers die of it."""
