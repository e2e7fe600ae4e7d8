"""What the supervisor counts beside the law of the counters: by class, rule, interface, CPU, sender; times.

Runs in the supervisor, once for each report of a worker; what it holds is bounded.
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
"""``flow``: no rule hit, the frame was kept for its flow alone."""
MOST_RULES = 200
"""Rules that are counted one by one, those that hit first; the others are counted together."""
MOST_NAME = 80
"""Characters of a rule's name that are kept."""
OTHER_RULES = ("other", "other", "other")

RuleLabels = tuple[str, str, str]
"""Class, identifier and name."""


class Tally:
    """Totals since the start; plain data, so that it can be handed to another process."""

    def __init__(self, interfaces: dict[int, str]) -> None:
        """``interfaces`` are the names of those captured on, by index."""
        self.read: Counter[int] = Counter()
        self.undecodable: Counter[int] = Counter()
        self.unmatched: Counter[int] = Counter()
        """Frames, by the CPU that they came by."""
        self.matches: Counter[str] = Counter()
        """By class of the rule, one of `MATCH_CLASSES`."""
        self.rules: Counter[RuleLabels] = Counter({OTHER_RULES: 0})
        self.matched = dict.fromkeys(interfaces.values(), (0, 0))
        """Frames that matched and their bytes on the wire, by interface."""
        self.talkers = Talkers()
        self.batch_s = TimeHistogram(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
        self.match_s = TimeHistogram(2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2)
        """Of each candidate, its share of the batch's time."""
        self.fill = TimeHistogram(0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
        """Of each batch, the share of its ring that was taken when it was read."""
        self._interfaces = interfaces

    def add(self, report: BatchReport) -> None:
        """Count a batch."""
        self.read[report.cpu] += report.read
        self.undecodable[report.cpu] += report.undecodable
        self.unmatched[report.cpu] += report.unmatched
        if report.batch_ns:  # otherwise it was skipped
            self.batch_s.observe(report.batch_ns / 1e9)
            self.fill.observe(report.fill)
            if report.read:
                self.match_s.observe(report.match_ns / 1e9 / report.read, report.read)
        if report.items:
            self._add_items(report.items)

    def _add_items(self, items: Sequence[Evidence]) -> None:
        """Count each rule and interface of a batch once: this runs for every piece of evidence."""
        frames = Counter([item.interface for item in items])
        size: Counter[int] = Counter()
        found = [match.rule for item in items for match in item.matches]
        hits = Counter([rule.rule_id for rule in found])
        for item in items:
            size[item.interface] += item.wirelen
        for index, name in self._interfaces.items():
            frames_before, size_before = self.matched[name]
            self.matched[name] = frames_before + frames[index], size_before + size[index]
        for rule in {rule.rule_id: rule for rule in found}.values():
            self.matches[rule.rule_class] += hits[rule.rule_id]
            self.rules[self._labels(rule)] += hits[rule.rule_id]
        self.matches["flow"] += sum(not item.matches for item in items)
        self.talkers.add([item.five_tuple.source for item in items])

    def _labels(self, rule: Rule) -> RuleLabels:
        labels = (rule.rule_class, str(rule.rule_id), rule.name[:MOST_NAME])
        return labels if labels in self.rules or len(self.rules) <= MOST_RULES else OTHER_RULES
