"""Texts that an expression is likely to match, near misses included; seeded, for tests alone."""

from __future__ import annotations

import random

from sensor.rules.regex import Bytes, Choice, Group, Look, Node, Repeat, Sequence

_PRINTABLE = frozenset(range(0x20, 0x7F))


def sample(node: Node, rng: random.Random) -> bytes:
    """Return a text the node matches, places and lookarounds aside."""
    match node:
        case Bytes(values):
            usual = sorted(values & _PRINTABLE if rng.random() < 0.9 else values) or sorted(values)
            return bytes([rng.choice(usual)]) if usual else b""
        case Sequence(nodes):
            return b"".join(sample(inner, rng) for inner in nodes)
        case Choice(nodes):
            return sample(rng.choice(nodes), rng)
        case Group(_, inner):
            return sample(inner, rng)
        case Repeat(inner, least, most):
            limit = least + rng.choice((0, 0, 1, 2, 5, 20))
            times = rng.randint(least, limit if most is None else min(most, limit))
            return b"".join(sample(inner, rng) for _ in range(times))
        case Look():
            return sample(node.node, rng) if rng.random() < 0.2 else b""
        case _:
            return b""


def mutated(text: bytes, rng: random.Random) -> bytes:
    """Return the text with a few bytes changed, dropped, doubled or cut off."""
    data = bytearray(text)
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[at:at] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randint(1, 4)]
            case 2:
                data[at:at] = data[at : at + rng.randint(1, 20)]
            case 3:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 4:
                data[at:at] = rng.choice((b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\0"))
            case 5:
                data[at : at + 8] = data[at : at + 8].swapcase()
    return bytes(data)
