"""Who sends most is told, whoever came first, and however many others there are."""

from __future__ import annotations

import random

from sensor.metrics.talkers import LEAD, MOST_TALKERS, MOST_WATCHED, Talkers


def address(number: int) -> bytes:
    """One of many."""
    return number.to_bytes(4, "big")


def test_few_are_told_apart_from_the_first_frame() -> None:
    """Exactly, and nobody is among the others."""
    talkers = Talkers()
    for _ in range(3):
        talkers.add([address(number) for number in range(MOST_TALKERS) for _ in range(number + 1)])
    assert talkers.frames == {address(number): 3 * (number + 1) for number in range(MOST_TALKERS)}
    assert talkers.other == 0


def test_who_sends_far_more_takes_a_place() -> None:
    """From the next turn on; each frame counts once, and a place is not lost for a few frames."""
    talkers = Talkers()
    talkers.add([address(number) for number in range(MOST_TALKERS)])
    late, slow = address(1000), address(2000)
    talkers.add([late] * 100 + [slow] * LEAD)
    assert talkers.other == 100 + LEAD
    talkers.turn()
    assert len(talkers.frames) == MOST_TALKERS
    assert talkers.frames[late] == 0
    assert slow not in talkers.frames
    talkers.add([late] * 7)
    assert (talkers.frames[late], talkers.other) == (7, 100 + LEAD)


def test_forged_addresses_neither_take_places_nor_memory() -> None:
    """A flood of addresses of one frame each, mixed into what three hosts send."""
    talkers, rng = Talkers(), random.Random(5)
    hosts = [address(number) for number in range(3)]
    talkers.add(address(10_000 + number) for number in range(MOST_TALKERS))  # the flood came first
    sent = MOST_TALKERS
    for _ in range(20):
        for _ in range(20):
            batch = [*hosts, *(rng.randbytes(16) for _ in range(97))]
            talkers.add(batch)
            sent += len(batch)
            assert len(talkers._recent) <= 4 * MOST_WATCHED
        talkers.turn()
    talkers.add(hosts)
    assert all(talkers.frames[host] > 300 for host in hosts)
    assert len(talkers.frames) == MOST_TALKERS
