"""Whether the engine finds what it is there for: each rule is shown to hit before it is trusted to it.

Vectorscan has had releases that miss hits without a word. So each database is asked for texts that
RE2 says a rule hits; a rule that is missed once is decided by RE2 from then on. Used when rules are
compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sensor.rules.engine.expression import Expression
from sensor.rules.engine.scan import Budget
from sensor.rules.engine.witness import placed

Finds = Callable[[bytes], bool]
"""Whether the engine finds one rule in a text."""


class _Endless(Budget):
    """The budget of what is no packet."""

    def is_spent(self) -> bool:
        return False


ENDLESS = _Endless()


def missed(expressions: Sequence[Expression], finds: Mapping[int, Sequence[Finds]]) -> list[int]:
    """List the rules, by index, that are not found where they hit, by all that is to find them.

    A rule that no text is known to hit is among them: nothing shows that it works.
    """
    return [index for index, each in finds.items() if not _is_found(expressions[index], each)]


def _is_found(expression: Expression, finds: Sequence[Finds]) -> bool:
    is_shown = False
    for payload in placed(expression.tree, expression.captures):
        if not all(find(payload) for find in finds):
            return False
        is_shown = True
    return is_shown
