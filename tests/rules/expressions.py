"""Random expressions and texts of few different letters, so that they often match. Seeded."""

from __future__ import annotations

import random

_CLASS_ITEMS = (
    "a",
    "b",
    "a-c",
    "^",
    "_",
    "B-D",
    "0-9",
    r"\d",
    r"\w",
    r"\W",
    r"\s",
    r"\h",
    r"\n",
    r"\b",
    r"\]",
    r"\x41",
)
_CLASS_ITEMS += ("[:alpha:]", "[:upper:]", "[:^digit:]")
_PLAIN = ("a", "b", "c", "A", r"\x61", r"\141", "ab", "bc", r"\n", " ", "_", "1")
_ESCAPES = (r"\w", r"\d", r"\s", r"\W", r"\S", r"\D", r"\N", r"\h", r"\v", ".", ".", ".")
_PLACES = (r"\b", r"\B", "^", "$", r"\z", r"\Z", r"\A")
_LOOKS = ("(?=%s)", "(?!%s)", "(?!%s)", "(?<=%s)", "(?<!%s)")
_LOOKED_FOR = ("a", "b", "ab", "a|b", "[ab]c", r"\n", "$", "a$", r"\w", "ab|c", r"\z", r"a\z|b", r"\z\z")
_GROUPS = ("(%s)", "(?:%s)", "(?:%s)", "(?i:%s)", "(?-i:%s)", "(?s:%s)", "(?U:%s)", "(?m:%s)", "(?<n>%s)")
_REPEATS = ("*", "+", "?", "{2}", "{1,2}", "{0,2}", "{2,}", "{,2}", "*?", "+?", "??", "{1,3}?")
_ALPHABET = b"aabbccABC \n_1d"


def random_expression(rng: random.Random, depth: int = 3) -> str:
    """Return a random expression; not all of them are valid."""
    look = rng.choice(_LOOKS) % rng.choice(_LOOKED_FOR) if rng.random() < 0.1 else ""
    branches = (
        "".join(_piece(rng, depth) for _ in range(rng.randint(1, 4))) for _ in range(rng.choice((1, 1, 2, 3)))
    )
    return look + "|".join(branches)


def _piece(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if kind < 0.5 or depth == 0:
        piece = rng.choice(_PLAIN)
    elif kind < 0.6:
        piece = rng.choice(_ESCAPES)
    elif kind < 0.68:
        items = "".join(rng.choices(_CLASS_ITEMS, k=rng.randint(1, 3)))
        piece = f"[{rng.choice(('', '', '^'))}{items}]"
    elif kind < 0.74:
        return rng.choice(_PLACES)
    elif kind < 0.79:
        return rng.choice(_LOOKS[:3]) % rng.choice(_LOOKED_FOR)
    else:
        piece = rng.choice(_GROUPS) % random_expression(rng, depth - 1)
    return piece + (rng.choice(_REPEATS) if rng.random() < 0.35 else "")


def random_text(rng: random.Random) -> bytes:
    """Return up to 300 bytes: one byte repeated, which engines skip in large steps, or varied bytes."""
    size = rng.choice((0, 1, 3, 8, 17, 33, 64, 130, 300))
    if rng.random() < 0.5:
        return rng.choice((b" ", b"x", b"c", b"\0")) * size
    return bytes(rng.choices(_ALPHABET, k=size))
