"""The conversations of a running sensor: their frames, in the kernel and on the way to the disk.

Runs in the supervisor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sensor.capture.program import Program
from sensor.capture.ring import PerfRing
from sensor.config.settings import Settings
from sensor.evidence.block import ITEM, EvidenceBlock
from sensor.evidence.conversation import ConversationNote, Missing
from sensor.evidence.conversation_tracker import ConversationTracker
from sensor.evidence.open_conversation import ContextLimits, OpenConversation
from sensor.live.follower import Follower
from sensor.live.recaller import Recaller
from sensor.live.worker_pool import WorkerPool
from sensor.pipeline import Pipeline
from sensor.rules.context import wants_context

LAST_LOOK_S = 2.0
"""Longest time at the end of a capture for what is still looked for in the history."""
_WAIT_S = 0.005
_NO_ITEMS, _NO_TIMES = np.zeros(0, ITEM), np.zeros(0, np.int64)


class FoundContext(NamedTuple):
    """Frames of conversations that were found in the history."""

    found: int
    """Their number, with those that are evidence already."""
    kept: EvidenceBlock


class FollowedConversations:
    """Tracks conversations, has their flows followed, and looks for the frames before their matches."""

    def __init__(
        self,
        settings: Settings,
        program: Program,
        rings: Callable[[], Sequence[PerfRing]],
        workers: WorkerPool,
        pipeline: Callable[[], Pipeline],
        interfaces: Collection[int],
    ) -> None:
        """Start looking into the history, if the program has one.

        ``pipeline`` returns the one in force, whose rules evidence refers to.
        """
        self.opened = 0
        """Conversations since the start."""
        self.surplus = 0
        """Frames beyond the limits of their conversation, or evidence already."""
        flow_hash = pipeline().flow_hash
        self._recaller: Recaller | None = None
        if program.history:
            linktype = rings()[0].linktype
            self._recaller = Recaller(program.history, flow_hash, linktype, interfaces, pipeline)
        self._follower = Follower(
            program,
            self._recaller,
            lambda: {ring.cpu: ring.head for ring in rings()},
            lambda: workers.reported_tails,
        )
        limits = ContextLimits(settings.context_packets, settings.context_kib << 10, settings.context_seconds)
        self._tracker = ConversationTracker(
            lambda rules: wants_context(rules, settings.context), flow_hash.of_fragments, limits
        )
        self._notes: list[ConversationNote] = []

    def __len__(self) -> int:
        return len(self._tracker)

    @property
    def refused(self) -> dict[str, int]:
        """Conversations that were not kept, by the budget that was used up."""
        return dict(self._tracker.refused.items())

    def set_lost(self, frames: int) -> None:
        """Set the number of frames that rings and network cards have lost so far."""
        self._tracker.lost = frames

    def assign(self, block: EvidenceBlock) -> EvidenceBlock:
        """Return the matches, and the context that belongs to a conversation, with their numbers."""
        admission = self._tracker.admit(block)
        self.surplus += len(block) - len(admission.block)
        for conversation in admission.opened:
            self.opened += 1
            self._follower.follow(conversation)
        self._note(admission.opened)
        self._end(admission.ended)
        return admission.block

    def note_refused(self, flows: Iterable[int]) -> None:
        """Note flows some of whose matches were above a limit."""
        self._tracker.lacks_flows(flows, Missing.SPACE)

    def note_unwritten(self, numbers: Iterable[int]) -> None:
        """Note conversations some of whose context was not written for want of space."""
        for number in numbers:
            self._tracker.lacks(number, Missing.SPACE)

    def tick(self) -> Iterator[FoundContext]:
        """Yield the context that was found in the history; call this in each turn of the loop."""
        for recalled in self._follower.tick():
            conversation, block, missing = recalled
            if block is None or not len(block):
                conversation.learn_beginning(_NO_ITEMS, _NO_TIMES, missing)
            else:
                kept = self._tracker.add_before(conversation, block, missing)
                self.surplus += len(block) - len(kept)
                yield FoundContext(len(block), kept)
            if conversation.ended:
                self._note([conversation])
        self._end(self._tracker.tick(time.monotonic_ns()))

    def finish(self) -> Iterator[FoundContext]:
        """End all conversations, as no more frames come; yield what is still found in the history."""
        deadline_s = time.monotonic() + LAST_LOOK_S
        self._follower.look_again()
        yield from self.tick()
        while self._follower.is_looking and time.monotonic() < deadline_s:
            time.sleep(_WAIT_S)
            yield from self.tick()
        self._end(self._tracker.close())

    def look_after_process(self) -> None:
        """Replace the process that looks into the history if it has died; call this regularly."""
        if self._recaller:
            self._recaller.tick()

    def renew_histories(self) -> None:
        """Look into the histories of all CPUs from now on, since one has been added."""
        if self._recaller:
            self._recaller.replace()

    def pop_notes(self) -> list[ConversationNote]:
        """Return what has become known about conversations since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def close(self) -> None:
        """End the process that looks into the history."""
        if self._recaller:
            self._recaller.close()

    def _end(self, ended: Iterable[OpenConversation]) -> None:
        found = list(ended)
        for conversation in found:
            self._follower.stop(conversation)
        self._note(found)

    def _note(self, conversations: Sequence[OpenConversation]) -> None:
        self._notes += map(self._tracker.note, conversations)
