"""Totals beyond the law of the counters: by class, rule, interface, CPU and sender, and durations.

Runs in the supervisor, once per report of a worker; its size is bounded.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock
from sensor.metrics.histogram import HistogramFigures, TimeHistogram
from sensor.metrics.talkers import Talkers
from sensor.model import RULE_CLASSES, Rule

if TYPE_CHECKING:
    from sensor.evidence.batch_report import BatchReport

MATCH_CLASSES = (*RULE_CLASSES, "flow")
"""``flow``: no rule matched, the frame was kept only for its flow."""
MOST_RULES = 200
"""Rules that are counted one by one, in the order in which they first match; the rest is counted together."""
MOST_NAME = 80
"""Maximum length of a rule's name in a label."""
OTHER_RULES = ("other", "other", "other")

RuleLabels = tuple[str, str, str]
"""Class, id and name of a rule."""


class TallyFigures(NamedTuple):
    """The figures of a `Tally` at one moment."""

    read: dict[int, int]
    undecodable: dict[int, int]
    unmatched: dict[int, int]
    sampled: dict[int, int]
    quarantined: dict[int, int]
    context: dict[int, int]
    """Frames by CPU; so are the four before."""
    matches: dict[str, int]
    """Matches by class of the rule, one of `MATCH_CLASSES`."""
    rules: list[tuple[RuleLabels, int]]
    """Matches by rule."""
    matched: dict[str, tuple[int, int]]
    """Frames that matched and their bytes on the wire, by interface."""
    talkers: dict[str, int]
    """Frames by sending address."""
    other_talkers: int
    """Frames of all other addresses."""
    batch_s: HistogramFigures
    match_s: HistogramFigures
    fill: HistogramFigures


class Tally:
    """Totals since the start."""

    def __init__(self, interfaces: dict[int, str]) -> None:
        """``interfaces`` maps the indexes of the captured interfaces to their names."""
        self.read: Counter[int] = Counter()
        self.undecodable: Counter[int] = Counter()
        self.unmatched: Counter[int] = Counter()
        self.sampled: Counter[int] = Counter()
        self.quarantined: Counter[int] = Counter()
        self.context: Counter[int] = Counter()
        """Frames by CPU; so are the five before."""
        self.matches: Counter[str] = Counter()
        """Matches by class of the rule, one of `MATCH_CLASSES`."""
        self.rules: Counter[RuleLabels] = Counter({OTHER_RULES: 0})
        self.matched = dict.fromkeys(interfaces.values(), (0, 0))
        """Frames that matched and their bytes on the wire, by interface."""
        self.talkers = Talkers()
        self.batch_s = TimeHistogram(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
        self.match_s = TimeHistogram(2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2)
        """Matching time per candidate: the batch's time divided by its frames."""
        self.fill = TimeHistogram(0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
        """Fill of the ring, 0 to 1, when a batch was read from it."""
        self._interfaces = interfaces

    def add(self, report: BatchReport) -> None:
        """Count one batch."""
        self.read[report.cpu] += report.read
        self.undecodable[report.cpu] += report.undecodable
        self.unmatched[report.cpu] += report.unmatched
        self.sampled[report.cpu] += report.sampled
        self.quarantined[report.cpu] += report.quarantined is not None
        if report.batch_ns:  # 0 for a frame in quarantine
            self.batch_s.observe(report.batch_ns / 1e9)
            self.fill.observe(report.fill)
            if report.read:
                self.match_s.observe(report.match_ns / 1e9 / report.read, report.read)
        if report.block:
            context = int(np.count_nonzero(report.block.is_context))
            self.context[report.cpu] += context
            if context < len(report.block):
                self._add_block(report.block.select(~report.block.is_context))

    def figures(self) -> TallyFigures:
        """Return the figures of this moment."""
        return TallyFigures(
            read=dict(self.read),
            undecodable=dict(self.undecodable),
            unmatched=dict(self.unmatched),
            sampled=dict(self.sampled),
            quarantined=dict(self.quarantined),
            context=dict(self.context),
            matches=dict(self.matches),
            rules=list(self.rules.items()),
            matched=dict(self.matched),
            talkers={str(ip_address(address)): frames for address, frames in self.talkers.frames.items()},
            other_talkers=self.talkers.other,
            batch_s=self.batch_s.figures(),
            match_s=self.match_s.figures(),
            fill=self.fill.figures(),
        )

    def _add_block(self, block: EvidenceBlock) -> None:
        """Count items; whatever is done once per item is done on whole columns: this is a hot path."""
        items = block.items
        for index, name in self._interfaces.items():
            is_of_interface = items["interface"] == index
            frames, size = self.matched[name]
            size += int(items["wirelen"].sum(where=is_of_interface, dtype=np.uint64))
            self.matched[name] = frames + int(np.count_nonzero(is_of_interface)), size
        matches = np.bincount(block.rules, minlength=1)
        for position in np.flatnonzero(matches).tolist():
            rule, count = block.rule_set[position], int(matches[position])
            self.matches[rule.rule_class] += count
            self.rules[self._labels(rule)] += count
        self.matches["flow"] += int(np.count_nonzero(items["matches"] == 0))
        self.talkers.add(_frames_by_source(items))

    def _labels(self, rule: Rule) -> RuleLabels:
        name = rule.name[:MOST_NAME].encode("utf-8", "replace").decode("utf-8")  # surrogates have no UTF-8
        labels = (rule.rule_class, str(rule.rule_id), name)
        return labels if labels in self.rules or len(self.rules) <= MOST_RULES else OTHER_RULES


def _frames_by_source(items: NDArray[np.void]) -> dict[bytes, int]:
    """Return the number of items by packed source address; 0.0.0.0 stands for no address."""
    is_long = items["ip_version"] == 6
    found: dict[bytes, int] = {}
    for width, chosen in ((4, ~is_long), (16, is_long)):
        sources = items["source"][chosen, :width]
        if len(sources):
            packed = np.ascontiguousarray(sources).view(f"S{width}").ravel()
            addresses, frames = np.unique(packed, return_counts=True)
            padded = (address.ljust(width, b"\0") for address in addresses.tolist())  # numpy cut zeros off
            found |= zip(padded, frames.tolist(), strict=True)
    return found
