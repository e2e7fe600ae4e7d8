"""Profiles: which packets of a flow are matched, and which of their matches count.

Read by the pipeline of every capture worker and of ``sensor read``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sensor.rules.http import LY_PROBE, RFC9110, HttpReading


@dataclass(frozen=True)
class Profile:
    """The values that set how much of the traffic is matched, and how strictly like ly_probe."""

    name: str
    longest: int | None
    """Longest transport payload that is matched, bytes; None for any."""
    depth: int | None
    """Packets with payload that are matched at the start of a flow; None for all."""
    http_at_any_depth: bool
    """Whether payloads that look like HTTP are matched behind ``depth`` too."""
    http: HttpReading
    """Which payloads look like HTTP."""
    once: bool
    """Whether only the first rule of a class that hits counts, and each class once a flow."""
    flow_has_tos: bool
    """Whether a packet with a type of service belongs to a flow of its own direction and service."""
    idle_s: int
    """A flow ends after so many seconds without a packet of it."""
    life_s: int
    """A flow ends so many seconds after its first packet."""
    ends_in_files: bool
    """Whether flows end by time when a capture file is read, not only live."""


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="ly_probe",
            longest=1499,
            depth=10,
            http_at_any_depth=False,
            http=LY_PROBE,
            once=True,
            flow_has_tos=True,
            idle_s=30,
            life_s=120,
            ends_in_files=False,
        ),
        Profile(
            name="default",
            longest=None,
            depth=32,
            http_at_any_depth=True,
            http=RFC9110,
            once=False,
            flow_has_tos=False,
            idle_s=30,
            life_s=120,
            ends_in_files=True,
        ),
        Profile(
            name="thorough",
            longest=None,
            depth=None,
            http_at_any_depth=True,
            http=RFC9110,
            once=False,
            flow_has_tos=False,
            idle_s=30,
            life_s=120,
            ends_in_files=True,
        ),
    )
}
