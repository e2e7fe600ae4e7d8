"""``sensor rules explain``: what the pipeline does with each frame of a capture file, and why.

Needs neither root nor BCC. The frames go through the real pipeline one by one, which is observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sensor.decode import decode
from sensor.files.capture_file import CaptureFile
from sensor.model import FiveTuple, FrameBatch, Match, PacketBatch, PacketStatus, Rule
from sensor.pipeline import Pipeline
from sensor.rules.engine.locate import locate_each
from sensor.rules.engine.matcher import Matcher, Matches, Payloads
from sensor.rules.engine.profile import PROFILES, Profile
from sensor.rules.obstacles import Obstacle, Specimen, obstacle

_WITHOUT_PAYLOAD = {
    PacketStatus.NO_PAYLOAD: "no payload",
    PacketStatus.NOT_IP: "not IP",
    PacketStatus.NO_TRANSPORT: "a protocol whose payload no rule can match",
    PacketStatus.UNKNOWN: "an unknown header, or too many headers",
    PacketStatus.MALFORMED: "malformed or truncated",
}


@dataclass(frozen=True)
class Explanation:
    """The outcome of one frame."""

    number: int
    """Position of the frame in the file, from 1."""
    timestamp_ns: int
    five_tuple: FiveTuple | None
    """None if there is no IP header."""
    payload: bytes
    is_http: bool
    untried: str | None
    """Why no rule was tried; None if rules were tried."""
    incomplete: bool
    """True if the search was cut for its cost, so that more rules may match."""
    matches: tuple[Match, ...]
    """All matches, in the order of the rules."""
    counted: tuple[Match, ...]
    """The matches that the profile counts."""
    rules: tuple[Rule, ...]
    profile: Profile

    def outcomes(self) -> Iterator[tuple[Rule, Match | Obstacle | None]]:
        """Yield each rule with its match, the reason its regex was not searched for, or None for no match."""
        if self.five_tuple is None or self.untried:
            return
        subject = Specimen(
            self.payload, self.five_tuple.protocol, self.five_tuple.sport, self.five_tuple.dport
        )
        matches = {match.rule.rule_id: match for match in self.matches}
        for rule in self.rules:
            yield rule, matches.get(rule.rule_id) or obstacle(rule, subject, self.profile)


def explain(path: Path, rules: Iterable[Rule], profile_name: str) -> Iterator[Explanation]:
    """Explain every frame of a capture file, in order.

    Raises:
        CaptureFileError: The file cannot be read or ends early; the frames before that have been explained.
    """
    profile = PROFILES[profile_name]
    with CaptureFile(path) as file:
        matcher = _ObservedMatcher(rules, profile.http)
        pipeline = Pipeline(matcher, "any", profile_name, live=False)
        for number, frame in enumerate(file.batches(max_frames=1), 1):
            yield _explain(frame, number, pipeline, matcher, profile)


class _ObservedMatcher(Matcher):
    """A matcher that remembers its last result."""

    found: tuple[Rule, ...] | None = None
    """The rules that match; None if it was given no payload."""

    def matches(
        self, buffer: memoryview, payloads: Payloads, stop_ns: int = 0, *, measure: bool = False
    ) -> Matches:
        """Match the payload of the one packet, and remember the rules."""
        results = super().matches(buffer, payloads, stop_ns, measure=measure)
        if len(payloads.start):
            self.found = tuple(self.rules[number] for number in results.rule.tolist())
        return results


def _explain(
    frame: FrameBatch, number: int, pipeline: Pipeline, matcher: _ObservedMatcher, profile: Profile
) -> Explanation:
    packet = decode(frame)
    matcher.found, cut_before = None, matcher.cut
    block = pipeline.process(frame)
    counted = block.rules_of(0) if block else []
    payload = bytes(frame.buffer[packet.payload_start.item() : packet.payload_end.item()])
    return Explanation(
        number,
        frame.timestamp_ns.item(),
        _five_tuple(frame, packet),
        payload,
        profile.http.matches(payload),
        _why_untried(packet, payload, profile) if matcher.found is None else None,
        matcher.cut > cut_before,
        tuple(locate_each(matcher.found or (), payload, profile.http)),
        tuple(locate_each(counted, payload, profile.http)),
        matcher.rules,
        profile,
    )


def _why_untried(packet: PacketBatch, payload: bytes, profile: Profile) -> str:
    status = PacketStatus(packet.status.item())
    if status in _WITHOUT_PAYLOAD:
        return _WITHOUT_PAYLOAD[status]
    if not payload:
        return "no payload"
    if profile.longest is not None and len(payload) > profile.longest:
        return f"longer than {profile.longest} bytes"
    named = ", or every class has matched in it" if profile.once else ""
    http = ", and not HTTP" if profile.http_at_any_depth else ""
    return f"after the first {profile.depth} packets of its flow{http}{named}"


def _five_tuple(frame: FrameBatch, packet: PacketBatch) -> FiveTuple | None:
    if not packet.ip_version.item():
        return None
    return next(packet.five_tuples(frame.buffer, np.array([0])))
