"""The top talkers are found, no matter who came first and how many others there are."""

from __future__ import annotations

import random
from collections import Counter

from sensor.metrics.talkers import LEAD, MOST_TALKERS, MOST_WATCHED, Talkers


def address(number: int) -> bytes:
    """Return a packed address for a number."""
    return number.to_bytes(4, "big")


def test_a_few_addresses_are_counted_one_by_one_from_the_first_frame() -> None:
    """The counts are exact, and none is under other."""
    talkers = Talkers()
    for _ in range(3):
        talkers.add({address(number): number + 1 for number in range(MOST_TALKERS)})
    assert talkers.frames == {address(number): 3 * (number + 1) for number in range(MOST_TALKERS)}
    assert talkers.other == 0


def test_an_address_that_sends_far_more_is_selected() -> None:
    """It is counted from the next selection on; each frame counts once; a few frames replace no one."""
    talkers = Talkers()
    talkers.add({address(number): 1 for number in range(MOST_TALKERS)})
    late, slow = address(1000), address(2000)
    talkers.add({late: 100, slow: LEAD})
    assert talkers.other == 100 + LEAD
    talkers.reselect()
    assert len(talkers.frames) == MOST_TALKERS
    assert talkers.frames[late] == 0
    assert slow not in talkers.frames
    talkers.add({late: 7})
    assert (talkers.frames[late], talkers.other) == (7, 100 + LEAD)


def test_forged_addresses_cost_neither_series_nor_memory() -> None:
    """Three hosts stand out from a flood of addresses with one frame each."""
    talkers, rng = Talkers(), random.Random(5)
    hosts = [address(number) for number in range(3)]
    talkers.add({address(10_000 + number): 1 for number in range(MOST_TALKERS)})  # the flood came first
    sent = MOST_TALKERS
    for _ in range(20):
        for _ in range(20):
            batch = [*hosts, *(rng.randbytes(16) for _ in range(97))]
            talkers.add(Counter(batch))
            sent += len(batch)
            assert len(talkers._recent) <= 4 * MOST_WATCHED
        talkers.reselect()
    talkers.add(Counter(hosts))
    assert all(talkers.frames[host] > 300 for host in hosts)
    assert len(talkers.frames) == MOST_TALKERS
