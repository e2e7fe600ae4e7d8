"""Tests for `sensor.evidence.conversation_tracker`: which frames are kept, and how conversations end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conversation_blocks import (
    ACK,
    BANNER,
    FIN,
    OTHER_THREAT,
    RST,
    START_NS,
    SYN,
    THREAT,
    UDP,
    Sent,
    block_of,
    kept,
    tracker,
)

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.conversation import Ending, Missing
from sensor.model import Role

NUMBER = START_NS // 1000
CLOCK_NS = 1_000_000_000_000


def test_a_conversation_from_its_match_to_its_end() -> None:
    """Frames of both directions are kept up to the last acknowledgement, and none of other flows."""
    table = tracker()
    first = table.admit(
        block_of(
            [
                Sent(0, THREAT),
                Sent(0.1, is_answer=True),
                Sent(0.2, client=(2, 40000)),
                Sent(0.3, client=(2, 40000), rule=BANNER),
            ]
        )
    )
    assert kept(first.block) == [(0, Role.HIT, NUMBER), (0.1, Role.AFTER, NUMBER), (0.3, Role.HIT, 0)]
    [conversation] = first.opened
    assert (conversation.number, conversation.opener, first.ended) == (NUMBER, 0, [])
    second = table.admit(
        block_of(
            [
                Sent(0.4, flags=FIN | ACK),
                Sent(0.5, flags=FIN | ACK, is_answer=True),
                Sent(0.6, client=(2, 40000)),
                Sent(0.7),
                Sent(1.3),
            ]
        )
    )
    assert [time for time, *_ in kept(second.block)] == [0.4, 0.5, 0.7]
    assert second.ended == [conversation]
    note = table.note(conversation)
    assert (note.ended, note.lost, note.packets, len(table)) == (Ending.FIN, 0, 5, 0)


def test_blocks_without_context_pass_as_they_are() -> None:
    """A block is not copied if no rule in it asks for context, and no conversation is open."""
    table = tracker()
    block = block_of([Sent(0, BANNER)])
    assert table.admit(block).block is block


@pytest.mark.parametrize(
    ("limits", "frames", "ending"),
    [
        ({"packets": 3}, [Sent(t / 10) for t in range(1, 9)], Ending.LIMIT),
        ({"size_bytes": 399}, [Sent(t / 10) for t in range(1, 9)], Ending.LIMIT),
        ({"seconds": 0.35}, [Sent(t / 10) for t in range(1, 9)], Ending.LIMIT),
        ({}, [Sent(0.1), Sent(0.2), Sent(0.3), Sent(31)], Ending.SILENCE),
        ({}, [Sent(0.1), Sent(0.2), Sent(0.3, flags=RST), Sent(5.4)], Ending.RST),
    ],
    ids=["packets", "bytes", "seconds", "silence", "reset"],
)
def test_endings(limits: dict[str, int], frames: list[Sent], ending: Ending) -> None:
    """Three frames after the match are kept, until a limit is reached or the flow ends."""
    table = tracker(**limits)
    found = table.admit(block_of([Sent(0, THREAT), *frames]))
    assert [time for time, *_ in kept(found.block)] == [0, 0.1, 0.2, 0.3]
    assert [(one.number, one.ended) for one in found.ended] == [(NUMBER, ending)]


def test_matches_after_a_limit_belong_to_the_conversation() -> None:
    """They are kept without context, and open no other conversation, until its time is over."""
    table = tracker(packets=1)
    table.admit(block_of([Sent(0, THREAT), Sent(1), Sent(2)]))
    later = table.admit(block_of([Sent(3, THREAT), Sent(4), Sent(5, BANNER)]))
    assert kept(later.block) == [(3, Role.HIT, NUMBER), (5, Role.HIT, NUMBER)]
    assert (later.opened, later.ended) == ([], [])
    again = table.admit(block_of([Sent(61, THREAT), Sent(62)]))
    assert [number for *_, number in kept(again.block)] == [NUMBER + 61_000_000] * 2


def test_the_next_connection_has_its_own_conversation() -> None:
    """Even in the same block, and with the same ports."""
    table = tracker()
    found = table.admit(
        block_of(
            [
                Sent(0, THREAT),
                Sent(0.1, flags=FIN),
                Sent(0.2, flags=FIN, is_answer=True),
                Sent(0.3, flags=SYN),
                Sent(0.4, BANNER),
                Sent(0.5, THREAT),
            ]
        )
    )
    assert [number for *_, number in kept(found.block)] == [NUMBER] * 3 + [0, NUMBER + 500_000]
    assert len(found.opened) == 2


def test_numbers_are_unique() -> None:
    """Conversations of the same microsecond get different numbers."""
    found = tracker().admit(block_of([Sent(0, THREAT, client=(n, 1)) for n in range(1, 4)]))
    assert [one.number for one in found.opened] == [NUMBER, NUMBER + 1, NUMBER + 2]


def test_silent_conversations_are_closed() -> None:
    """A tick closes what is over, and `close` the rest, which is incomplete."""
    table = tracker()
    table.admit(block_of([Sent(0, THREAT, protocol=UDP), Sent(20, THREAT, client=(2, 1))]))
    assert table.tick(CLOCK_NS + 29_000_000_000) == []
    assert [one.ended for one in table.tick(CLOCK_NS + 31_000_000_000)] == [Ending.SILENCE]
    assert [one.ended for one in table.close()] == [Ending.INTERRUPTED]
    assert len(table) == 0


def test_loss_is_noted() -> None:
    """Frames that were lost while a conversation ran are said with it."""
    table = tracker()
    table.lost = 5
    [conversation] = table.admit(block_of([Sent(0, THREAT)])).opened
    assert table.note(conversation).missing == Missing(0)
    table.lost = 8
    note = table.note(conversation)
    assert (note.missing, note.lost) == (Missing.LOST, 3)


def before(*frames: Sent) -> EvidenceBlock:
    """Return frames that were found in a history."""
    return block_of(frames, Role.BEFORE)


def test_frames_before_the_match() -> None:
    """Frames of the history are kept once each: not matches, nor what was kept meanwhile."""
    table = tracker()
    table.admit(block_of([Sent(-0.1, BANNER)]))
    [conversation] = table.admit(block_of([Sent(0, THREAT)])).opened
    table.admit(block_of([Sent(0.3)]))
    found = table.add_before(
        conversation,
        before(
            Sent(0.3),
            Sent(-0.2, flags=SYN | ACK, is_answer=True),
            Sent(-0.3, flags=SYN),
            Sent(-0.1),
            Sent(0),
            Sent(0.1),
            Sent(0.1, client=(2, 1)),
        ),
    )
    assert sorted(kept(found)) == [
        (-0.3, Role.BEFORE, NUMBER),
        (-0.2, Role.BEFORE, NUMBER),
        (0.1, Role.AFTER, NUMBER),
    ]
    assert len(table.add_before(conversation, before(Sent(0.1)))) == 0
    assert table.note(conversation).missing == Missing(0)
    [ended] = table.close()
    assert table.note(ended).packets == 5


def test_frames_of_other_connections_are_left_out() -> None:
    """The history may hold earlier connections of the same endpoints; a repeated SYN begins none."""
    table = tracker()
    [conversation] = table.admit(block_of([Sent(0, THREAT)])).opened
    frames = [
        Sent(-9, flags=SYN),
        Sent(-8),
        Sent(-7, flags=RST),
        Sent(-6, flags=SYN),
        Sent(-5, flags=SYN | ACK, is_answer=True),
        Sent(-4, flags=SYN),
        Sent(-3),
    ]
    found = table.add_before(conversation, before(*frames))
    assert [time for time, *_ in kept(found)] == [-6, -5, -4, -3]


def test_datagrams_before_a_silence_are_left_out() -> None:
    """Without TCP, a silence divides flows."""
    table = tracker()
    [conversation] = table.admit(block_of([Sent(0, THREAT, protocol=UDP)])).opened
    found = table.add_before(conversation, before(*(Sent(t, protocol=UDP) for t in (-40, -2, -1))))
    assert [time for time, *_ in kept(found)] == [-2, -1]


def test_the_client_is_who_began() -> None:
    """A match in an answer does not turn the conversation round."""
    for first, missing in ((Sent(-1, flags=SYN), 0), (Sent(-1, flags=SYN | ACK, is_answer=True), 1)):
        table = tracker()
        [conversation] = table.admit(block_of([Sent(0, THREAT, is_answer=True)])).opened
        table.add_before(conversation, before(first))
        note = table.note(conversation)
        assert (note.five_tuple.sport, note.five_tuple.dport) == (40000, 80)
        assert note.missing == Missing(missing)


def test_what_a_history_lacks_is_noted() -> None:
    """Without a SYN the beginning is missing; what the caller knows is added."""
    table = tracker()
    [conversation] = table.admit(block_of([Sent(0, THREAT)])).opened
    table.add_before(conversation, before(Sent(-1)), Missing.CUT_OFF)
    assert table.note(conversation).missing == Missing.BEGINNING | Missing.CUT_OFF


def test_frames_found_after_the_end() -> None:
    """A flow may be over before its frames between match and verdict are found."""
    table = tracker()
    [conversation] = table.admit(block_of([Sent(0, THREAT)])).opened
    table.admit(block_of([Sent(0.2, flags=FIN), Sent(0.3, flags=FIN, is_answer=True), Sent(2)]))
    assert conversation.ended == Ending.FIN
    found = table.add_before(conversation, before(Sent(0.1), Sent(0.35), Sent(2)))
    assert kept(found) == [(0.1, Role.AFTER, NUMBER), (0.35, Role.AFTER, NUMBER)]


def test_fragments_belong_to_the_conversation() -> None:
    """Later IP fragments have no ports, so they are a flow of their own."""
    table = tracker()
    [conversation] = table.admit(block_of([Sent(0, THREAT, protocol=UDP)])).opened
    block = block_of([Sent(0.1, protocol=UDP, client=(9, 0))])
    block.items["flow"] = conversation.fragments
    assert [number for *_, number in kept(table.admit(block).block)] == [NUMBER]


def test_cut_frames_are_noted() -> None:
    """A frame of which only a part was captured is said."""
    table = tracker()
    block = block_of([Sent(0, THREAT), Sent(1)])
    items = block.items.copy()
    items["wirelen"][1] += 1
    [conversation] = table.admit(replace(block, items=items)).opened
    assert table.note(conversation).missing == Missing.SNAPLEN


def test_a_scan_does_not_buy_the_disk() -> None:
    """One source has 30 of its 10,000 attacks kept with context; another source is not affected."""
    table = tracker()
    scan = [Sent(n / 10_000, THREAT, client=(1, n % 60_000)) for n in range(10_000)]
    found = table.admit(block_of([*scan, Sent(1, THREAT, client=(1 << 16, 1))]))
    assert len(found.block) == 10_001
    assert len(found.opened) == 31
    assert table.refused == {"source": 9_970, "rule": 0, "memory": 0}
    assert found.opened[-1].opener == 10_000
    context = [Sent(2, client=sent.client) for sent in scan]
    assert len(table.admit(block_of(context)).block) == 30
    later = table.admit(block_of([Sent(121, THREAT, client=(1, n)) for n in range(10_000, 20_000)]))
    assert len(later.opened) == 30


def test_a_rule_does_not_buy_the_disk() -> None:
    """One rule has 1,200 of its 10,000 matches kept with context; other rules are not affected."""
    table = tracker()
    sources = [Sent(n / 10_000, THREAT, client=(n, 1)) for n in range(10_000)]
    found = table.admit(block_of([*sources, Sent(1, OTHER_THREAT, client=(1 << 16, 1))]))
    assert len(found.opened) == 1_201
    assert table.refused == {"source": 0, "rule": 8_800, "memory": 0}


def test_the_number_of_conversations_is_limited() -> None:
    """Those beyond it are counted."""
    table = tracker(most_open=2)
    found = table.admit(block_of([Sent(0, THREAT, client=(n, 1)) for n in range(5)]))
    assert (len(found.opened), table.refused["memory"]) == (2, 3)


def test_connections_that_are_opened_again_and_again_have_a_budget() -> None:
    """The next connection of the same ports is charged too, in whichever block it comes."""
    frames = [
        sent
        for n in range(100)
        for sent in (
            Sent(n / 100, THREAT),
            Sent(n / 100 + 0.001, flags=RST),
            Sent(n / 100 + 0.002, flags=SYN),
        )
    ]
    table = tracker()
    assert len(table.admit(block_of(frames)).opened) == 30
    assert table.refused["source"] > 0


def test_items_of_other_roles_without_conversation_are_dropped() -> None:
    """Context that the kernel submitted after a conversation was closed is not kept."""
    assert len(tracker().admit(block_of([Sent(0), Sent(1)])).block) == 0
    assert np.array_equal(tracker().admit(block_of([])).block.items, block_of([]).items)


def test_an_answer_after_a_forged_reset_is_kept() -> None:
    """Anybody can forge one, and the server goes on."""
    table = tracker()
    found = table.admit(block_of([Sent(0, THREAT), Sent(0.001, flags=RST), Sent(0.8, is_answer=True)]))
    assert len(found.block) == 3


def test_a_clock_at_its_end_is_no_fault() -> None:
    """Times of capture files can be any; a conversation so far away is not opened, or ends."""
    table = tracker()
    for time_ns in ((1 << 63) - 1, (1 << 63) - 2, 0):
        block = block_of([Sent(0, THREAT)])
        block.items["time_ns"] = block.items["ktime_ns"] = time_ns
        table.admit(block)
    assert len(table) <= 1
