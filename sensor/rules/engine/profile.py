"""Profiles: which packets of a flow are matched, and which of their matches count.

Used by the pipeline, in every capture worker and in ``sensor read``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, HttpReading


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How much of the traffic is matched, and how closely ly_probe is followed.

    Each field carries its description for the documentation.
    """

    name: str
    flow_has_tos: Annotated[
        bool, "a packet with a type of service belongs to a flow of its own direction and service"
    ]
    longest: Annotated[int | None, "longest transport payload that is matched, bytes"]
    depth: Annotated[int | None, "packets with payload that are matched at the start of a flow"]
    http_at_any_depth: Annotated[bool, "payloads that look like HTTP are matched behind that, too"]
    http: Annotated[HttpReading, "what looks like HTTP: payloads with one of these beginnings"]
    once: Annotated[bool, "only the first rule of a class that hits counts, and each class once a flow"]
    idle_s: Annotated[int, "a flow ends after so many seconds without a packet that may be matched"]
    life_s: Annotated[int, "a flow ends so many seconds after its first such packet"]
    ends_in_files: Annotated[bool, "flows end by time when a capture file is read, not only live"]


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
