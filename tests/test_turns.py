"""The turns of a batch: together they are the batch, however short they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evidence_of import evidence_of
from test_pipeline import RULES, segment

from sensor.evidence.block import joined
from sensor.evidence.explain_block import explained
from sensor.model import FrameBatch
from sensor.pipeline import Keep, Pipeline
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.profile import PROFILES
from tests import frames

NO_TIME_NS = -1_000_000_000
"""A turn that was over before it began ends after its first payload."""


def mixed_batch() -> FrameBatch:
    """Return frames with matches, without, without payload, and broken ones; the first and last have none."""
    packets = [segment(b"")]
    for number in range(30):
        packets += [segment(b"hello world", sport=1000 + number % 7), segment(b"attack debian", sport=number)]
        packets += [segment(b"nothing"), segment(b""), segment(b"cut short")[: 20 + number]]
    one = frames.batch_of([*packets, segment(b"")])
    return replace(one, timestamp_ns=np.arange(len(one), dtype=np.int64) * 1_000_000)


@pytest.mark.parametrize("keep", ["any", "threat", "flow"])
@pytest.mark.parametrize("profile", PROFILES)
def test_turns_add_up_to_the_batch(profile: str, keep: Keep) -> None:
    """The evidence and the counters are those of one turn, and no frame is in two turns."""
    batch, matcher = mixed_batch(), Matcher(RULES, PROFILES[profile].http)
    whole, divided = Pipeline(matcher, keep, profile), Pipeline(matcher, keep, profile)
    expected = evidence_of(whole, batch)
    turns = list(divided.turns(batch, NO_TIME_NS))
    assert len(turns) > 60
    ends = [turn.end for turn in turns]
    assert ends == sorted(set(ends))
    assert ends[-1] == len(batch)
    assert list(explained(joined([turn.block for turn in turns]), matcher.http)) == expected
    assert divided.counts()[:5] == whole.counts()[:5]
    assert divided.matched == whole.matched


def test_counters_of_each_turn() -> None:
    """When a turn ends, its frames and no others are counted."""
    pipeline = Pipeline(Matcher(RULES), "any")
    for turn in pipeline.turns(mixed_batch(), NO_TIME_NS):
        assert pipeline.read == turn.end == pipeline.undecodable + pipeline.unmatched + pipeline.matched


@pytest.mark.parametrize("packets", [[], [segment(b"")], [segment(b"cut")[:20]]])
def test_a_batch_without_payload_is_one_turn(packets: list[bytes]) -> None:
    """Nothing is matched, and all frames are counted."""
    pipeline = Pipeline(Matcher(RULES), "any")
    assert [turn.end for turn in pipeline.turns(frames.batch_of(packets), NO_TIME_NS)] == [len(packets)]
    assert pipeline.read == len(packets)


def test_time_enough_is_one_turn() -> None:
    """Ordinary batches are not divided."""
    batch = mixed_batch()
    turns = Pipeline(Matcher(RULES), "any").turns(batch, 3600 * 1_000_000_000)
    assert [turn.end for turn in turns] == [len(batch)]


def test_a_sign_of_life_from_each_stage() -> None:
    """The pipeline beats before and after matching, in each turn."""
    pipeline = Pipeline(Matcher(RULES), "any")
    beats: list[None] = []
    pipeline.beat = lambda: beats.append(None)
    for number, _ in enumerate(pipeline.turns(mixed_batch(), NO_TIME_NS), 1):
        assert len(beats) >= 2 * number


def test_the_place_of_a_payload_is_shown() -> None:
    """While a payload is matched, its start in the buffer can be read from outside."""
    matcher, word = Matcher(RULES), np.zeros(1, np.uint64)
    matcher.batch_matcher.show_place_in(word)
    batch = frames.batch_of([segment(b"first"), segment(b"second")])
    seen = []
    for _ in Pipeline(matcher, "any").turns(batch, NO_TIME_NS):
        seen.append(bytes(batch.buffer[int(word[0]) :])[:5])  # noqa: PERF401 - looked at between two turns
    assert seen == [b"first", b"secon"]
