"""Prove for each rule that the engine finds it. Used when rules are compiled.

Some releases of Vectorscan silently miss matches. So each database is tried on witness texts, which
the rule matches according to RE2. A rule that is missed once is decided by RE2 from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sensor.rules.engine.expression import Expression
from sensor.rules.engine.witness import witness_payloads

Finder = Callable[[bytes], bool]
"""Returns True if the engine finds one particular rule in a text."""


def missed(expressions: Sequence[Expression], finders: Mapping[int, Sequence[Finder]]) -> list[int]:
    """Return the indices of the rules that at least one of their finders misses in a witness text.

    A rule without any witness text counts as missed: nothing proves that it works.
    """
    return [index for index, each in finders.items() if not _is_found(expressions[index], each)]


def _is_found(expression: Expression, finders: Sequence[Finder]) -> bool:
    is_proven = False
    for payload in witness_payloads(expression.tree, expression.span_finder):
        if not all(find(payload) for find in finders):
            return False
        is_proven = True
    return is_proven
