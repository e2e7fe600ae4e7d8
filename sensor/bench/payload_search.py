"""Search for the payload that costs most. Runs in ``sensor bench match``.

A payload is a recipe: a beginning, and texts that are repeated until it is full. The search tries single
texts, packs the dearest together, and then changes the dearest recipes step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

Cost = Callable[[bytes], float]
"""Measures a payload. Other programs add to it now and then, so the least of several calls counts."""

_KEPT = 10
"""Recipes that are changed further."""
_PROMISING = 100
_PACKED = (3, 8, 20)
_CONFIRMATIONS = 3


class Recipe(NamedTuple):
    """A way to build a payload of any size."""

    beginning: bytes
    texts: tuple[bytes, ...]

    def payload(self, size: int) -> bytes:
        """Return a payload of so many bytes."""
        body = b"".join(self.texts)
        rest = size - len(self.beginning)
        return (self.beginning + body * (rest // len(body) + 1))[:size]


class PayloadSearch:
    """Searches for the dearest recipe of one size, with the same proposals for the same seed."""

    def __init__(
        self, cost: Cost, size: int, texts: Sequence[bytes], beginnings: Sequence[bytes], rng: Random
    ) -> None:
        self._cost = cost
        self._size = size
        self._texts = texts
        self._beginnings = beginnings
        self._rng = rng
        self._costs: dict[Recipe, float] = {}

    def run(self, trials: int, known: Sequence[Recipe] = ()) -> Recipe:
        """Try so many recipes, and those that are ``known``; return the dearest."""
        alone = self._rng.sample(self._texts, min(len(self._texts), trials // 2))
        tried = [*known, *(Recipe(self._rng.choice(self._beginnings), (text,)) for text in alone)]
        for recipe in tried:
            self._measure(recipe)
        best = self._dearest(tried, _PROMISING)
        self._confirm(best)
        best = self._dearest(best, _PROMISING)
        promising = [text for recipe in best for text in recipe.texts]
        for count in _PACKED:
            best.append(Recipe(best[0].beginning, tuple(promising[:count])))
        self._confirm(best[-len(_PACKED) :])
        best = self._dearest(best, _KEPT)
        for _ in range(trials - len(alone)):
            best = self._climb(best, promising)
        self._confirm(best)
        return self._dearest(best, 1)[0]

    def _climb(self, best: list[Recipe], promising: Sequence[bytes]) -> list[Recipe]:
        """Change one of the best recipes; keep the changed one if it is dearer than the last of them."""
        one = best[min(int(self._rng.expovariate(0.5)), len(best) - 1)]
        other = self._changed(one, promising if self._rng.random() < 0.7 else self._texts)
        is_possible = other.texts and sum(map(len, other.texts)) <= 2 * self._size
        if not is_possible or other in self._costs:
            return best
        least = self._costs[best[-1]]
        for _ in range(1 + _CONFIRMATIONS):
            if self._measure(other) <= least:
                return best
        return self._dearest([*best, other], _KEPT)

    def _changed(self, recipe: Recipe, texts: Sequence[bytes]) -> Recipe:
        """Return the recipe with one change."""
        rng, parts, beginning = self._rng, list(recipe.texts), recipe.beginning
        at = rng.randrange(len(parts))
        part = parts[at]
        match rng.randrange(10):
            case 0 | 1 | 2:
                parts.insert(at, rng.choice(texts))
            case 3 | 4:
                del parts[at]
            case 5:
                parts[at] = rng.choice(texts)
            case 6:
                parts[at] = part.replace(b"%", b"%25") if b"%" in part else part + b"%2525"
            case 7:
                place = rng.randrange(len(part))
                parts[at] = (
                    part[:place]
                    + bytes([rng.choice((part[place] ^ 0x20, *b"\0%+ \r\n'"))])
                    + part[place + 1 :]
                )
            case 8:
                parts[at] = part[: rng.randrange(len(part)) + 1]
            case _:
                beginning = rng.choice(self._beginnings)
        return Recipe(beginning, tuple(parts))

    def _dearest(self, recipes: Sequence[Recipe], count: int) -> list[Recipe]:
        return sorted(set(recipes), key=lambda recipe: (-self._costs[recipe], recipe))[:count]

    def _confirm(self, recipes: Sequence[Recipe]) -> None:
        """Measure again, so that no recipe is dear because of other programs."""
        for recipe in recipes:
            for _ in range(_CONFIRMATIONS):
                self._measure(recipe)

    def _measure(self, recipe: Recipe) -> float:
        cost = self._cost(recipe.payload(self._size))
        self._costs[recipe] = min(cost, self._costs.get(recipe, cost))
        return self._costs[recipe]
