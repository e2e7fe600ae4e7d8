"""Prove for each rule that the engine finds it. Used when rules are compiled.

Some releases of Vectorscan silently miss matches. So each database is tried on witness texts, which
the rule matches according to RE2. A rule that is missed once is decided by RE2 from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sensor.native.witness_scanner import WitnessScanner
from sensor.rules.engine.expression import Expression
from sensor.rules.engine.scan import SLICE, Decider
from sensor.rules.engine.witness import witness_payloads

PATIENCE_NS = 10_000_000_000
"""CPU time for all trials together. Most rule sets need a fraction of it. Where many rules match each other's
texts, trials would grow with the square of the rules; then each rule is tried on fewer texts."""

Finder = Callable[[Sequence[bytes], int], bool]
"""Returns True if the engine finds one particular rule in each text. It is called with the CPU time after
which it tries no further text."""


class Scanners:
    """The databases of a rule set, each loaded once to be tried."""

    def __init__(self) -> None:
        self._loaded: dict[Decider, WitnessScanner] = {}

    def finder(self, decider: Decider, wanted: int, mask: int) -> Finder:
        """Return a finder for the matches of a decider whose id is ``wanted`` under ``mask``."""
        return partial(self._finds, decider, wanted, mask)

    def _finds(
        self, decider: Decider, wanted: int, mask: int, texts: Sequence[bytes], patience_ns: int
    ) -> bool:
        if decider.databases.whole is None:
            return False
        if decider not in self._loaded:
            self._loaded[decider] = WitnessScanner(decider.databases, SLICE)
        return self._loaded[decider].finds(wanted, mask, texts, patience_ns)


def missed(
    expressions: Sequence[Expression],
    finders: Mapping[int, Sequence[Finder]],
    watch: Callable[[int], None] = lambda _index: None,
) -> list[int]:
    """Return the indices of the rules that at least one of their finders misses in a witness text.

    ``watch`` is called with the index of each rule before it is tried.

    A rule without any witness text counts as missed: nothing proves that it works.
    """
    patience_ns, waiting = PATIENCE_NS, sum(map(len, finders.values()))
    found = []
    for index, each in finders.items():
        watch(index)
        one = expressions[index]
        texts = list(witness_payloads(one.tree, one.span_finder))
        start_ns = time.thread_time_ns()
        if not texts or not all(find(texts, patience_ns // waiting) for find in each):
            found.append(index)
        patience_ns = max(0, patience_ns - (time.thread_time_ns() - start_ns))
        waiting -= len(each)
    return found
