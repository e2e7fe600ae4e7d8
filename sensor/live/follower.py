"""The kernel's part of conversations: flows that it follows, and frames that are found in its history.

Runs in the supervisor. The kernel submits every frame of a flow that it follows. The frames before that are
asked for once the workers have reported what was in the rings at that moment, so that no frame is both found
in the history and matched.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.capture.flow_table import FlowKey, packed_flow_key
from sensor.capture.program import Program
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.conversation import Missing
from sensor.evidence.open_conversation import OpenConversation
from sensor.live.recall_channel import REQUEST
from sensor.live.recaller import Recalled, Recaller

PATIENCE_S = 30.0
"""Longest wait for the reports of workers, whose rings may be full, and whose successors begin anew."""
POLL_S = 0.5
"""Seconds between two looks into the history for a flow that the kernel cannot follow, as in a tunnel."""
POLLS_PER_S = 50
"""Such looks per second for all flows together."""
CHECK_S = 5.0
"""Seconds between two looks whether the kernel still follows a flow."""
IN_FLIGHT_NS = 1_000_000
"""Time between the kernel's time of a frame and its arrival in the ring, at most."""
OVERLAP_NS = 2_000_000_000
"""Further looks begin this long before the last one, as the CPUs write their histories independently."""
NOTHING = Missing(0)
_MOST_FRAMES = 1 << 30

Positions = Callable[[], Mapping[int, int]]
"""Returns a position in the ring of each CPU."""


class RecalledContext(NamedTuple):
    """Frames of a conversation that were found in the history."""

    conversation: OpenConversation
    block: EvidenceBlock | None
    missing: Missing


@dataclass(eq=False)
class _Flow:
    """The flow of a conversation."""

    conversation: OpenConversation
    keys: list[FlowKey]
    """Its key, and that of its fragments."""
    request: NDArray[np.void]
    """Its `REQUEST`."""
    asked_s: float
    """Time of the last request; before that, when it was followed."""
    is_known: bool
    """True if the kernel follows it."""
    is_answered: bool = False
    is_followed: bool = True
    missing: Missing = NOTHING


class _Wave(NamedTuple):
    """Flows that are asked for once the workers have reported what was in the rings at one moment."""

    heads: dict[int, int]
    until_ns: int
    """Monotonic time before which all frames were in the rings."""
    since_s: float
    flows: list[_Flow]


class Follower:
    """The flows that are followed, by the number of their conversation."""

    def __init__(
        self,
        program: Program,
        recaller: Recaller | None,
        heads: Positions,
        reported: Positions,
    ) -> None:
        """``recaller`` is None without a history.

        ``heads`` returns the end of what the kernel has submitted, ``reported`` that of what workers have
        reported.
        """
        self._program, self._recaller = program, recaller
        self._heads, self._reported = heads, reported
        self._cut_off_bytes = program.history_flow_bytes
        self._flows: dict[int, _Flow] = {}
        self._users: Counter[FlowKey] = Counter()
        """Number of conversations that have a flow followed: fragments of several are one flow."""
        self._sought: dict[int, _Flow] = {}
        """Those whose frames are still looked for in the history."""
        self._new: list[_Flow] = []
        """Those that were followed a moment ago: a CPU may just have looked for the verdict."""
        self._ready: list[_Flow] = []
        """Those that belong to the next wave."""
        self._waves: deque[_Wave] = deque()
        self._polled: deque[_Flow] = deque()
        """Those that the kernel cannot follow, the one that was asked for longest ago first."""
        self._checked: deque[tuple[_Flow, float]] = deque()
        """Those that the kernel follows, and when that was seen; the longest ago first."""
        self._polls, self._polls_s = float(POLLS_PER_S), time.monotonic()
        """Looks that may be made now, and the time when that was so."""

    def follow(self, conversation: OpenConversation) -> None:
        """Follow the flow of a conversation that has begun, and look for its earlier frames."""
        keys = _keys(conversation)
        until_ns = time.monotonic_ns() + int(conversation.limits.seconds * 1e9)
        before = self._program.flow(keys[0])
        known = [
            self._program.set_verdict(key, abi.Verdict.FOLLOW, frames=_MOST_FRAMES, until_ns=until_ns)
            for key in keys
        ]
        request = np.zeros(1, REQUEST)
        request["number"] = conversation.number
        request["flows"] = conversation.flow, conversation.fragments
        request["hashes"] = [self._program.flow_hash(key) for key in keys]
        flow = _Flow(conversation, keys, request, time.monotonic(), is_known=known[0])
        if self._recaller is None:
            conversation.missing |= Missing.HISTORY_OFF
        elif before and before.history_bytes >= self._cut_off_bytes:
            flow.missing = Missing.CUT_OFF
        self._flows[conversation.number] = flow
        self._users.update(keys)
        if self._recaller is not None:
            conversation.is_sought = True
            self._sought[conversation.number] = flow
            self._new.append(flow)
        if flow.is_known:
            self._checked.append((flow, time.monotonic()))

    def stop(self, conversation: OpenConversation) -> None:
        """End following the flow of a conversation; what is in the history is still looked for."""
        flow = self._flows.pop(conversation.number)
        flow.is_followed = False
        self._users.subtract(flow.keys)
        for key in flow.keys:
            if self._users[key] <= 0:
                del self._users[key]
                self._program.set_verdict(key, abi.Verdict.NONE)

    @property
    def is_looking(self) -> bool:
        """True if frames are looked for that may not have been found yet."""
        return any(not flow.is_answered for flow in self._sought.values())

    def look_again(self) -> None:
        """Look for frames of all flows that the kernel cannot follow, since no more frames come."""
        for flow in self._polled:
            flow.is_answered = False
        self._ready += self._polled
        self._polled.clear()

    def tick(self) -> Iterator[RecalledContext]:
        """Ask for frames that can be asked for; yield what was found. Call this in each turn of the loop."""
        if self._recaller is None:
            return
        self._check(time.monotonic())
        if self._sought:
            yield from self._ask(self._recaller)
        for answer in self._recaller.receive():
            found = self._sought.get(answer.number)
            if found is not None:
                self._note(found, answer)
                yield RecalledContext(found.conversation, answer.block, found.missing)

    def _check(self, now_s: float) -> None:
        """Follow flows again whose entry the kernel has renewed or replaced, and look for what was missed."""
        while self._checked and now_s >= self._checked[0][1] + CHECK_S:
            flow, _ = self._checked.popleft()
            if not flow.is_followed:
                continue
            found = self._program.flow(flow.keys[0])
            if found is None or found.verdict != abi.Verdict.FOLLOW:
                until_ns = flow.conversation.opened_ns + int(flow.conversation.limits.seconds * 1e9)
                flow.is_known = self._program.set_verdict(
                    flow.keys[0], abi.Verdict.FOLLOW, frames=_MOST_FRAMES, until_ns=until_ns
                )
                if flow.conversation.number not in self._sought:
                    self._sought[flow.conversation.number] = flow
                    flow.asked_s = now_s
                    self._new.append(flow)
            if flow.is_known:
                self._checked.append((flow, now_s))

    def _ask(self, recaller: Recaller) -> Iterator[RecalledContext]:
        now_s = time.monotonic()
        reported = self._reported()
        while self._waves and self._has_passed(self._waves[0], reported, now_s):
            wave = self._waves.popleft()
            for flow in wave.flows:
                # Later frames are in the rings, too: followed ones are reported, others are found next time.
                flow.request["until_ktime_ns"] = wave.until_ns
                flow.request["is_unparsed"] = not flow.is_known
                flow.asked_s = now_s
                if not recaller.request(flow.request):
                    del self._sought[flow.conversation.number]
                    flow.conversation.is_sought = False
                    yield RecalledContext(flow.conversation, None, flow.missing | Missing.BEGINNING)
        ready, self._ready = self._ready + self._due(now_s), []
        if self._new and now_s >= self._new[-1].asked_s + 2 * IN_FLIGHT_NS / 1e9:
            ready, self._new = ready + self._new, []
        if ready:
            until_ns = time.monotonic_ns() - IN_FLIGHT_NS  # before the heads are read
            self._waves.append(_Wave(dict(self._heads()), until_ns, now_s, ready))

    def _has_passed(self, wave: _Wave, reported: Mapping[int, int], now_s: float) -> bool:
        """Return True if workers have reported all frames of a wave, or the patience is over."""
        return now_s >= wave.since_s + PATIENCE_S or all(
            reported.get(cpu, head) >= head for cpu, head in wave.heads.items()
        )

    def _due(self, now_s: float) -> list[_Flow]:
        """Return the flows to look for again."""
        self._polls = min(POLLS_PER_S, self._polls + (now_s - self._polls_s) * POLLS_PER_S)
        self._polls_s = now_s
        due: list[_Flow] = []
        while self._polled and self._polls >= 1 and now_s >= self._polled[0].asked_s + POLL_S:
            due.append(self._polled.popleft())
            self._polls -= 1
        return due

    def _note(self, flow: _Flow, answer: Recalled) -> None:
        """Note the answer to a request: what is missing, and from when on a further look is needed."""
        if answer.is_truncated:
            flow.missing |= Missing.CUT_OFF if flow.is_answered or not flow.is_known else Missing.BEGINNING
        flow.is_answered = True
        flow.conversation.is_sought = False
        newest_ns = 1
        if answer.block is not None and len(answer.block):
            fragments = flow.conversation.fragments
            if fragments != flow.conversation.flow and (answer.block.items["flow"] == fragments).any():
                flow.is_known = False  # the kernel does not follow fragments whose flow began after the match
            newest_ns = max(1, int(answer.block.items["ktime_ns"].max()) - OVERLAP_NS)
        flow.request["from_ktime_ns"] = newest_ns
        if flow.is_known or not flow.is_followed:
            del self._sought[flow.conversation.number]
        else:
            self._polled.append(flow)


def _keys(conversation: OpenConversation) -> list[FlowKey]:
    """Return the kernel's key of the flow of a conversation, and that of its fragments."""
    ends, vlans = conversation.five_tuple, conversation.vlan
    return [packed_flow_key(ends, vlans), packed_flow_key(ends._replace(sport=0, dport=0), vlans)]
