"""Texts that an expression cannot match without: what to look for first. Used when rules are loaded."""

from __future__ import annotations

from sensor.rules.regex import Bytes, Choice, Group, Mark, Node, Place, Repeat, Sequence

Literal = tuple[frozenset[int], ...]
"""Bytes one behind the other; two values where a letter's case does not count."""

SHORTEST = 3
_MOST = 64


def required(node: Node) -> list[frozenset[Literal]]:
    """List sets of literals; every match contains one literal at least of each set."""
    match node:
        case Sequence(nodes):
            runs, found = _runs(nodes)
            return found + [frozenset((run,)) for run in runs if len(run) >= SHORTEST]
        case Choice(nodes):
            best = [max(required(branch), key=_quality, default=None) for branch in nodes]
            if any(literals is None for literals in best):
                return []
            merged = frozenset[Literal]().union(*(literals for literals in best if literals))
            return [merged] if len(merged) <= _MOST else []
        case Repeat(inner, least) if least > 0:
            return required(inner)
        case Group(_, inner):
            return required(inner)
        case _:
            return []


def _runs(nodes: tuple[Node, ...]) -> tuple[list[Literal], list[frozenset[Literal]]]:
    """Split a sequence into its runs of plain text, and what the nodes between them require."""
    runs: list[Literal] = [()]
    found: list[frozenset[Literal]] = []
    for node in nodes:
        match node:
            case Bytes(values) if _is_plain(values):
                runs[-1] += (values,)
            case Place() | Mark():
                pass
            case _:
                runs.append(())
                found += required(node)
    return runs, found


def _is_plain(values: frozenset[int]) -> bool:
    if len(values) == 2:
        low, high = sorted(values)
        return high == low | 0x20 and chr(low).isalpha()
    return len(values) == 1


def _quality(literals: frozenset[Literal]) -> tuple[int, int]:
    """Rate a set: long literals first, few of them next."""
    return min(map(len, literals)), -len(literals)
