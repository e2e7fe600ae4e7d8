"""The table of conversations under way: which frames are kept around matches, until when, and within budgets.

Runs in the supervisor and in ``sensor read``. Frames come in blocks. Only those of conversations below their
limits are looked at one by one, and budgets bound how many these are.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.context_budgets import CAUSES, Cause, ContextBudgets, sources_of
from sensor.evidence.conversation import CONVERSATION_MAX, ConversationNote, Ending, Missing
from sensor.evidence.frame_identities import FrameIdentities
from sensor.evidence.open_conversation import (
    ContextLimits,
    OpenConversation,
    connection_start,
    five_tuple_of,
    opens_connection,
)
from sensor.evidence.tracked_block import FlowColumns, Items, Mask, TrackedBlock, TrackedFrame, tracked_frames
from sensor.model import Role, Rule

MOST_OPEN = 2_000
_RECENT_NUMBERS = 1 << 16
_TICK_NS = 250_000_000
NOTHING_MISSING = Missing(0)


class Admission(NamedTuple):
    """The part of a block that is kept, and what changed."""

    block: EvidenceBlock
    opened: list[OpenConversation]
    """Conversations whose other frames are wanted from now on."""
    ended: list[OpenConversation]
    """Conversations of which no more context is kept."""


class ConversationTracker:
    """The conversations that matches have opened, and that are not closed yet.

    Its memory is bounded: by the number of conversations that may be open, and by tables of fixed size.
    """

    def __init__(
        self,
        wants_context: Callable[[Sequence[Rule]], Mask],
        fragment_flows: Callable[[Items], NDArray[np.uint64]],
        limits: ContextLimits,
        budgets: ContextBudgets | None = None,
        *,
        clock: Literal["ktime_ns", "time_ns"] = "ktime_ns",
        most_open: int = MOST_OPEN,
    ) -> None:
        """Track conversations.

        Args:
            wants_context: Returns True for each rule of a set whose matches keep their conversation.
            fragment_flows: Returns the flow of later IP fragments between the endpoints of each item.
            limits: Of each conversation.
            budgets: Of sources and rules.
            clock: The field of items that holds the time; ``time_ns`` for capture files.
            most_open: Conversations that may be open at a time.
        """
        self.refused: Counter[Cause] = Counter(dict.fromkeys(CAUSES, 0))
        """Conversations that were not opened, by cause; one per flow and block."""
        self.opened = 0
        """Conversations that were opened."""
        self.lost = 0
        """Frames that ring and network card have lost so far; set by the caller."""
        self._wants_context, self._fragment_flows = wants_context, fragment_flows
        self._wants: tuple[Sequence[Rule], Mask] = ((), np.zeros(0, np.bool_))
        self._limits = limits
        self._budgets = budgets or ContextBudgets()
        self._clock = clock
        self._most_open = most_open
        self._kept = FrameIdentities()
        self._open: dict[int, OpenConversation] = {}
        """By number."""
        self._by_flow: dict[int, OpenConversation] = {}
        self._flows: FlowColumns | None = None
        """The same as columns; None if they are not up to date."""
        self._ended: list[OpenConversation] = []
        self._recent: deque[int] = deque(maxlen=_RECENT_NUMBERS)
        self._numbers: set[int] = set()
        self._ticked_ns: int | None = None

    def __len__(self) -> int:
        """Return the number of conversations that are not closed."""
        return len(self._open)

    def admit(self, block: EvidenceBlock) -> Admission:
        """Open conversations for the matches of a block, and decide which of its context is kept.

        Matches are always kept. The items of conversations get their number, and context its role.
        """
        is_context = block.is_context
        self._kept.add(block.items[~is_context])
        wanted = self._wanted(block)
        if not (self._open or wanted.any() or is_context.any()):
            return Admission(block, [], [])
        run = TrackedBlock(block.items.copy(), ~is_context, block, wanted)
        self._mark_limited(run)
        is_member = self._is_member(block.items["flow"])
        self._refuse(run, is_member)
        new = block.items[run.openers]
        flows = np.concatenate([new["flow"], self._fragment_flows(new)])
        is_member |= np.isin(block.items["flow"], flows)
        self._follow(run, np.flatnonzero(is_member & ~run.is_done))
        kept = replace(block, items=run.items).select(run.keep)
        self._kept.add(kept.items[kept.is_context])
        return Admission(kept, run.opened, self._pop_ended())

    def add_before(
        self,
        conversation: OpenConversation,
        block: EvidenceBlock,
        missing: Missing = NOTHING_MISSING,
        is_kept: Mask | None = None,
    ) -> EvidenceBlock:
        """Return those items of a history that belong to a conversation and are not kept yet.

        Args:
            conversation: From `Admission.opened`; it may have ended since.
            block: Context of the flow and its fragments, and perhaps of others, in any order.
            missing: Gaps of the history. It is seen here whether the beginning of a TCP connection is there.
            is_kept: True for each item that is evidence already, if their identities do not tell.
        """
        run = TrackedBlock(block.items.copy(), np.zeros(len(block), np.bool_), block, np.zeros(0, np.bool_))
        items, clock = run.items, self._times(block.items)
        is_own = (items["flow"] == conversation.flow) | (items["flow"] == conversation.fragments)
        start_ns = connection_start(items[is_own], clock[is_own], conversation)
        is_own &= clock >= start_ns
        conversation.learn_beginning(items[is_own], clock[is_own], missing)
        is_own &= ~(self._kept.has(items) if is_kept is None else is_kept)
        is_before = is_own & (clock <= conversation.opened_ns)
        run.keep |= is_before
        conversation.kept += int(np.count_nonzero(is_before))
        items["conversation"][is_before], items["role"][is_before] = conversation.number, Role.BEFORE
        if (items["caplen"] < items["wirelen"])[is_before].any():
            conversation.missing |= Missing.SNAPLEN
        later = np.flatnonzero(is_own & ~is_before)
        for frame in self._frames(run, later[np.argsort(clock[later], kind="stable")]):
            if not conversation.over_at(frame.time_ns):
                self._add(run, frame, conversation, is_late=True)
        kept = replace(block, items=items).select(run.keep)
        self._kept.add(kept.items)
        return kept

    def tick(self, now_ns: int) -> list[OpenConversation]:
        """Close the conversations that are over at a time of the items' clock; return those that ended."""
        passed_ns = _TICK_NS if self._ticked_ns is None else abs(now_ns - self._ticked_ns)
        if self._open and passed_ns >= _TICK_NS:
            self._ticked_ns = now_ns
            for conversation in list(self._open.values()):
                if ending := conversation.over_at(now_ns):
                    self._close(conversation, ending)
        return self._pop_ended()

    def close(self) -> list[OpenConversation]:
        """Close all conversations, because no more frames come; return those that ended."""
        for conversation in list(self._open.values()):
            self._close(conversation, conversation.closing or Ending.INTERRUPTED)
        return self._pop_ended()

    def lacks(self, number: int, missing: Missing) -> None:
        """Note that something is missing of a conversation, unless that is closed."""
        if number in self._open:
            self._open[number].missing |= missing

    def lacks_flows(self, flows: Iterable[int], missing: Missing) -> None:
        """Note that something is missing of the conversations that have these flows."""
        for flow in flows:
            if conversation := self._by_flow.get(flow):
                conversation.missing |= missing

    def note(self, conversation: OpenConversation) -> ConversationNote:
        """Return what is known of a conversation now."""
        return conversation.note(self.lost)

    def flows_for(self, block: EvidenceBlock) -> NDArray[np.uint64]:
        """Return the flows whose frames may be kept: of open conversations, and of those a block may open."""
        openers = np.unique(block.item_of_match[self._wanted(block)])
        new = block.items[openers]
        return np.concatenate([self._columns().flows, new["flow"], self._fragment_flows(new)])

    def _pop_ended(self) -> list[OpenConversation]:
        ended, self._ended = self._ended, []
        return ended

    def _times(self, items: Items) -> NDArray[np.int64]:
        return items[self._clock].astype(np.int64)

    def _wanted(self, block: EvidenceBlock) -> Mask:
        """Return True for each match that opens a conversation."""
        if self._wants[0] is not block.rule_set:
            self._wants = block.rule_set, self._wants_context(block.rule_set)
        return self._wants[1][block.rules]

    def _columns(self) -> FlowColumns:
        if self._flows is None:
            self._flows = FlowColumns.of(self._by_flow)
        return self._flows

    def _is_member(self, flows: NDArray[np.uint64]) -> Mask:
        """Return True for each item whose flow has a conversation."""
        return self._columns().find(flows) >= 0

    def _mark_limited(self, run: TrackedBlock) -> None:
        """Deal with all items of conversations that have reached a limit: only matches belong to them."""
        columns = self._columns()
        if not columns.is_limited.any():
            return
        place = columns.find(run.items["flow"])
        is_limited = (place >= 0) & columns.is_limited[place]
        is_limited &= self._times(run.items) <= columns.until_ns[place]
        is_match = is_limited & run.keep
        run.items["conversation"][is_match] = columns.numbers[place[is_match]]
        run.openers &= ~is_limited
        run.is_done |= is_limited

    def _refuse(self, run: TrackedBlock, is_member: Mask) -> None:
        """Take those from the openers whose flow has no conversation, and would open one above a budget."""
        new = np.flatnonzero(run.openers & ~is_member)
        if not len(new):
            return
        _, firsts, flow_of = np.unique(run.items["flow"][new], return_index=True, return_inverse=True)
        order = np.argsort(firsts)  # those that come first are served first
        is_admitted = np.zeros(len(order), np.bool_)
        is_admitted[order] = self._admitted(run, new[firsts[order]])
        run.openers[new[~is_admitted[flow_of]]] = False
        run.paid.update(run.items["flow"][new[is_admitted[flow_of]]].tolist())

    def _admitted(self, run: TrackedBlock, positions: NDArray[np.intp]) -> Mask:
        """Return True for each of these items that may open a conversation; count the others."""
        items = run.items[positions]
        opener, rules = run.wanted_rules(positions)
        now_ns = int(self._times(items).max())
        by_source, by_rule = self._budgets.admit(sources_of(items), opener, rules, now_ns)
        is_admitted = ~(by_source | by_rule)
        room = max(self._most_open - len(self._open), 0)
        by_memory = is_admitted & (np.cumsum(is_admitted) > room)
        for cause, refused in zip(CAUSES, (by_source, by_rule, by_memory), strict=True):
            self.refused[cause] += int(np.count_nonzero(refused))
        return is_admitted & ~by_memory

    def _follow(self, run: TrackedBlock, positions: NDArray[np.intp]) -> None:
        """Go through items one by one: open conversations, count their frames, and see how they end."""
        for frame in self._frames(run, positions):
            conversation = self._current(frame)
            if conversation:
                self._add(run, frame, conversation)
            elif run.openers[frame.position] and self._may_open(run, frame):
                self._open_one(run, frame)

    def _frames(self, run: TrackedBlock, positions: NDArray[np.intp]) -> Iterator[TrackedFrame]:
        if len(positions):
            chosen = run.items[positions]
            is_known = self._kept.has(chosen)
            yield from tracked_frames(positions, chosen, self._times(chosen), is_known)

    def _current(self, frame: TrackedFrame) -> OpenConversation | None:
        """Return the conversation that a frame belongs to; close one that was over before the frame."""
        conversation = self._by_flow.get(frame.flow)
        if conversation is None:
            return None
        ending = conversation.over_at(frame.time_ns, opens=opens_connection(frame.flags))
        if ending:
            self._close(conversation, ending)
        return None if ending else conversation

    def _add(
        self,
        run: TrackedBlock,
        frame: TrackedFrame,
        conversation: OpenConversation,
        *,
        is_late: bool = False,
    ) -> None:
        """Add a frame to its conversation, if it is a match or within the limits.

        ``is_late``: it was found in a history, perhaps after the conversation had ended.
        """
        if frame.is_context and frame.is_known:
            return
        is_within = (is_late or not conversation.ended) and conversation.has_room(frame.caplen)
        if not (is_within or conversation.ended):
            self._end(conversation, Ending.LIMIT)
        if frame.is_context and not is_within:
            return
        run.items["conversation"][frame.position] = conversation.number
        if is_within:
            conversation.add(frame.time_ns, frame.caplen, frame.flags, frame.endpoint)
        if frame.is_context:
            is_early = frame.time_ns <= conversation.opened_ns
            run.items["role"][frame.position] = Role.BEFORE if is_early else Role.AFTER
            run.keep[frame.position] = True
        if frame.caplen < frame.wirelen:
            conversation.missing |= Missing.SNAPLEN

    def _end(self, conversation: OpenConversation, ending: Ending) -> None:
        """Keep no more context of a conversation."""
        if not conversation.ended:
            conversation.end(ending)
            self._ended.append(conversation)
            self._flows = None

    def _may_open(self, run: TrackedBlock, frame: TrackedFrame) -> bool:
        """Return True if a frame may open a conversation; the first one of a flow has paid for it."""
        if not 0 < int(run.items["time_ns"][frame.position]) // 1000 < CONVERSATION_MAX - _RECENT_NUMBERS:
            return False
        if frame.flow in run.paid:
            run.paid.remove(frame.flow)
            return True
        if frame.flow in run.refused or not self._admitted(run, np.array([frame.position]))[0]:
            run.refused.add(frame.flow)
            return False
        return True

    def _open_one(self, run: TrackedBlock, frame: TrackedFrame) -> None:
        item = run.items[frame.position : frame.position + 1]
        conversation = OpenConversation(
            number=self._new_number(int(item["time_ns"][0])),
            flow=frame.flow,
            fragments=int(self._fragment_flows(item)[0]),
            five_tuple=five_tuple_of(item[0]),
            vlan=tuple(item["vlan_tci"][0][: item["vlan_count"][0]].tolist()),
            opened_ns=frame.time_ns,
            limits=self._limits,
            lost_before=self.lost,
            last_ns=frame.time_ns,
            opener=frame.position,
            has_beginning=opens_connection(frame.flags),
        )
        conversation.see(frame.time_ns, frame.flags, frame.endpoint)
        item["conversation"] = conversation.number
        if frame.caplen < frame.wirelen:
            conversation.missing |= Missing.SNAPLEN
        self._open[conversation.number] = conversation
        self._by_flow[frame.flow] = conversation
        self._by_flow.setdefault(conversation.fragments, conversation)
        self._flows = None
        run.opened.append(conversation)
        self.opened += 1

    def _new_number(self, time_ns: int) -> int:
        number = max(time_ns // 1000, 1)
        while number in self._numbers or number in self._open:
            number += 1
        if len(self._recent) == _RECENT_NUMBERS:
            self._numbers.discard(self._recent[0])
        self._recent.append(number)
        self._numbers.add(number)
        return number

    def _close(self, conversation: OpenConversation, ending: Ending) -> None:
        """Forget a conversation; frames of its flow belong to it no more."""
        self._end(conversation, ending)
        del self._open[conversation.number]
        for flow in {conversation.flow, conversation.fragments}:
            if self._by_flow.get(flow) is conversation:
                del self._by_flow[flow]
        self._flows = None
