"""Profiles: which packets of a flow are matched, and which of their matches count.

Used by the pipeline, in every capture worker and in ``sensor read``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, HttpReading


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How much of the traffic is matched, and how closely ly_probe is followed."""

    name: str
    flow_has_tos: bool
    """A packet with a type of service belongs to a flow of its own direction and service."""
    longest: int | None
    """Longest payload that is matched, in bytes; None: no limit."""
    depth: int | None
    """Packets with payload that are matched at the start of a flow; None: all."""
    http_at_any_depth: bool
    """Payloads that look like HTTP are matched after that, too."""
    http: HttpReading
    """The definition of HTTP."""
    once: bool
    """Only the first matching rule of a class counts, and each class once per flow."""
    idle_s: int
    """A flow ends after this time without a packet that may be matched, in seconds."""
    life_s: int
    """A flow ends this long after its first such packet, in seconds."""
    ends_in_files: bool
    """Flows end by time when a capture file is read, not only live."""


_OURS: dict[str, Any] = {
    "flow_has_tos": False,
    "longest": None,
    "http_at_any_depth": True,
    "http": RFC9110,
    "once": False,
    "idle_s": 30,
    "life_s": 120,
    "ends_in_files": True,
}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="ly_probe",
            flow_has_tos=True,
            longest=1499,
            depth=10,
            http_at_any_depth=False,
            http=LY_PROBE,
            once=True,
            idle_s=30,
            life_s=120,
            ends_in_files=False,
        ),
        Profile(name="default", depth=32, **_OURS),
        Profile(name="thorough", depth=None, **_OURS),
    )
}
