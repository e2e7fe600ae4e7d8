"""Write lowered trees as expressions for Hyperscan and RE2, which read the few constructs used alike.

Used when rules are loaded.
"""

from __future__ import annotations

from functools import lru_cache

from sensor.rules.regex.tree import Bytes, Choice, Group, Mark, Node, Position, Repeat, Sequence

_POSITIONS = {
    Position.START: r"\A",
    Position.LINE_START: "(?m:^)",
    Position.LINE_END: "(?m:$)",
    Position.END: r"\z",
    Position.WORD: r"\b",
    Position.NOT_WORD: r"\B",
}

RE2_REPEAT_LIMIT = 1000
"""The highest repeat count that RE2 accepts; counts of nested repeats are multiplied."""


class Renderer:
    """Writes one tree; afterwards ``groups`` says what each capturing group of the text stands for."""

    def __init__(self, repeat_limit: int | None = None) -> None:
        self._repeat_limit = repeat_limit
        self.groups: list[Mark | None] = []
        """Per capturing group, in order: the mark it stands for, or None for the rule's own group 1."""

    def render(self, node: Node) -> str:
        """Return the expression; compile it case-sensitive, on bytes, not multiline."""
        match node:
            case Bytes(values):
                return _byte_set(values)
            case Sequence(nodes):
                return "".join(
                    f"(?:{self.render(n)})" if isinstance(n, Choice) else self.render(n) for n in nodes
                )
            case Choice(nodes):
                return "|".join(map(self.render, nodes))
            case Repeat():
                return self._repeat(node)
            case Group(1, inner):
                self.groups.append(None)
                return f"({self.render(inner)})"
            case Group(_, inner):
                return f"(?:{self.render(inner)})"
            case Mark.REPEATED:
                return ""
            case Mark():
                self.groups.append(node)
                return "()"
            case Position():
                return _POSITIONS[node]
            case _:
                raise AssertionError(f"{node} in a lowered tree")

    def _repeat(self, repeat: Repeat) -> str:
        parts = self._split(repeat) if self._repeat_limit else [repeat]
        return "".join(f"(?:{self.render(part.node)}){_bounds(part)}" for part in parts)

    def _split(self, repeat: Repeat) -> list[Repeat]:
        """Split a repeat into consecutive repeats that stay within the limit."""
        step = max(1, (self._repeat_limit or 1) // _nested_repeats(repeat.node))
        parts, least, most = [], repeat.least, repeat.most
        while max(least, most or 0) > step:
            part = min(step, least or step)
            parts.append(Repeat(repeat.node, min(part, least), part, repeat.greedy))
            least, most = max(0, least - part), (None if most is None else most - part)
        return [*parts, Repeat(repeat.node, least, most, repeat.greedy)]


def _nested_repeats(node: Node) -> int:
    match node:
        case Repeat(inner, least, most):
            return min(RE2_REPEAT_LIMIT, max(1, least, most or 0) * _nested_repeats(inner))
        case Sequence(nodes) | Choice(nodes):
            return max(map(_nested_repeats, nodes), default=1)
        case Group(_, inner):
            return _nested_repeats(inner)
        case _:
            return 1


def _bounds(repeat: Repeat) -> str:
    bounds = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((repeat.least, repeat.most))
    if bounds is None:
        most = "" if repeat.most is None else repeat.most
        bounds = f"{{{repeat.least}}}" if repeat.least == most else f"{{{repeat.least},{most}}}"
    return bounds if repeat.greedy else bounds + "?"


@lru_cache(maxsize=4096)  # the same sets are in most rules
def _byte_set(values: frozenset[int]) -> str:
    if len(values) == 1:
        return _byte(*values)
    if len(values) > 128:
        return f"[^{_ranges(frozenset(range(256)) - values)}]" if len(values) < 256 else r"[\x00-\xff]"
    return f"[{_ranges(values)}]"


def _ranges(values: frozenset[int]) -> str:
    text, ordered = "", sorted(values)
    while ordered:
        low = high = ordered.pop(0)
        while ordered and ordered[0] == high + 1:
            high = ordered.pop(0)
        text += _byte(low) if low == high else f"{_byte(low)}-{_byte(high)}"
    return text


def _byte(value: int) -> str:
    return chr(value) if chr(value).isalnum() and value < 128 else f"\\x{value:02x}"
