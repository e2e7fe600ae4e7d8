"""Totals beyond the law of the counters: by class, rule, interface, CPU and sender, and durations.

Runs in the supervisor, once per report of a worker; its size is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sensor.metrics.histogram import TimeHistogram
from sensor.metrics.talkers import Talkers
from sensor.model import RULE_CLASSES, Evidence, Rule

if TYPE_CHECKING:
    from sensor.pipeline import BatchReport

MATCH_CLASSES = (*RULE_CLASSES, "flow")
"""``flow``: no rule matched, the frame was kept only for its flow."""
MOST_RULES = 200
"""Rules that are counted one by one, in the order in which they first match; the rest is counted together."""
MOST_NAME = 80
"""Maximum length of a rule's name in a label."""
OTHER_RULES = ("other", "other", "other")

RuleLabels = tuple[str, str, str]
"""Class, id and name of a rule."""


class Tally:
    """Totals since the start; plain data, so that it can be pickled for the exporter."""

    def __init__(self, interfaces: dict[int, str]) -> None:
        """``interfaces`` maps the indexes of the captured interfaces to their names."""
        self.read: Counter[int] = Counter()
        self.undecodable: Counter[int] = Counter()
        self.unmatched: Counter[int] = Counter()
        """Frames by CPU; so are `read` and `undecodable`."""
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
        if report.batch_ns:  # 0 if the batch was skipped
            self.batch_s.observe(report.batch_ns / 1e9)
            self.fill.observe(report.fill)
            if report.read:
                self.match_s.observe(report.match_ns / 1e9 / report.read, report.read)
        if report.items:
            self._add_items(report.items)

    def _add_items(self, items: Sequence[Evidence]) -> None:
        """Count items, looking up each rule and interface once per batch: this is a hot path."""
        frames = Counter([item.interface for item in items])
        size: Counter[int] = Counter()
        found = [match.rule for item in items for match in item.matches]
        matches = Counter([rule.rule_id for rule in found])
        for item in items:
            size[item.interface] += item.wirelen
        for index, name in self._interfaces.items():
            frames_before, size_before = self.matched[name]
            self.matched[name] = frames_before + frames[index], size_before + size[index]
        for rule in {rule.rule_id: rule for rule in found}.values():
            self.matches[rule.rule_class] += matches[rule.rule_id]
            self.rules[self._labels(rule)] += matches[rule.rule_id]
        self.matches["flow"] += sum(not item.matches for item in items)
        self.talkers.add([item.five_tuple.source for item in items])

    def _labels(self, rule: Rule) -> RuleLabels:
        labels = (rule.rule_class, str(rule.rule_id), rule.name[:MOST_NAME])
        return labels if labels in self.rules or len(self.rules) <= MOST_RULES else OTHER_RULES
