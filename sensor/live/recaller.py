"""The process that looks into the history, as the supervisor sees it: requests, answers, restarts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.capture.history import KernelHistory
from sensor.evidence.block import EvidenceBlock, joined
from sensor.evidence.block_codec import MalformedBlockError, check_origin
from sensor.live.recall import recall
from sensor.live.recall_channel import MOST_AT_ONCE, RecallChannel
from sensor.live.report_channel import MOST_PARTS, Kind, MalformedReportError
from sensor.live.worker import signals_blocked
from sensor.pipeline import Pipeline
from sensor.process.child import Backoff, ChildProcess, FunctionProcess
from sensor.rules.engine.flows import FlowHash

MOST_OUTSTANDING = 2 * MOST_AT_ONCE
"""Requests that are sent before the first one is answered."""
MOST_WAITING = 4096
"""Requests that wait to be sent; further ones are refused."""
MOST_SILENT_TICKS = 25
"""Calls of `Recaller.tick` without an answer to a request until the process is killed: five seconds."""
RESTART_S, RESTART_MAX_S, STABLE_S = 0.2, 10.0, 10.0
"""Seconds until the next start, at first and at most; and seconds after which it is as at first again."""

log = logging.getLogger(__name__)


class Recalled(NamedTuple):
    """The answer to a request."""

    number: int
    block: EvidenceBlock | None
    is_truncated: bool
    """True if older frames of the flow were overwritten."""


class Recaller(ChildProcess):
    """The process and the requests it has not answered yet. Requests outlive a process that dies."""

    def __init__(
        self,
        history: KernelHistory,
        flow_hash: FlowHash,
        linktype: int,
        interfaces: Collection[int],
        pipeline: Callable[[], Pipeline],
    ) -> None:
        """Start it. Frames come from ``interfaces``; ``pipeline`` returns the one that evidence refers to."""
        self._history, self._flow_hash, self._linktype = history, flow_hash, linktype
        self._interfaces, self._pipeline = interfaces, pipeline
        self._waiting: dict[int, NDArray[np.void]] = {}
        self._sent: dict[int, NDArray[np.void]] = {}
        self._parts: list[EvidenceBlock] = []
        self._silent_ticks = 0
        delay = Backoff(RESTART_S, RESTART_MAX_S, STABLE_S)
        super().__init__("the process that finds context", self._start_process, delay, self._settle)

    def _start_process(self) -> FunctionProcess:
        self._channel = RecallChannel()
        arguments = self._channel, self._history.mapped(), self._flow_hash, self._linktype, os.getpid()
        with signals_blocked():
            process = FunctionProcess(recall, arguments, "recall")
        self._channel.enter_supervisor()
        return process

    def request(self, request: NDArray[np.void]) -> bool:
        """Ask for the frames of a flow, by a `REQUEST` of shape (1,). Return False if too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting[int(request["number"][0])] = request
        self._send()
        return True

    def receive(self) -> Iterator[Recalled]:
        """Yield the answers that have arrived. A process that sends a malformed one is killed."""
        try:
            while (answer := self._receive_one()) is not None:
                yield answer
        except MalformedReportError as error:
            log.error("the process that finds context sent a malformed answer and is killed: %s", error)  # noqa: TRY400
            self.replace()
        self._send()

    def tick(self) -> None:
        """Replace the process if it has died or stalled; call this several times per second."""
        self._silent_ticks = self._silent_ticks + 1 if self._sent else 0
        if self._silent_ticks == MOST_SILENT_TICKS:
            log.error("the process that finds context has stalled and is killed")
            self.replace()
        super().tick()

    def _send(self) -> None:
        """Send what waits, unless the process has died; what is sent to a dying one is sent again."""
        if self._due_s is not None:
            return
        while self._waiting and len(self._sent) < MOST_OUTSTANDING:
            number = next(iter(self._waiting))
            self._sent[number] = self._waiting.pop(number)
            self._channel.send(self._sent[number])

    def _receive_one(self) -> Recalled | None:
        while True:
            try:
                message = self._channel.answers.receive(self._pipeline())
            except (BlockingIOError, OSError):
                return None
            if message is None:
                return None
            if message.block is not None:
                self._check(message.block)
                self._parts.append(message.block)
            if message.kind is Kind.PART:
                if len(self._parts) > MOST_PARTS:
                    raise MalformedReportError("too many parts")
                continue
            number = int(message.fields["tail"])
            if message.kind is not Kind.REPORT or number not in self._sent:
                raise MalformedReportError("an answer without a request")
            del self._sent[number]
            self._silent_ticks = 0
            block = joined(self._parts) if self._parts else None
            self._parts = []
            return Recalled(number, block, bool(message.fields["cut"]))

    def _check(self, block: EvidenceBlock) -> None:
        try:
            check_origin(block, {self._linktype}, self._interfaces)
        except MalformedBlockError as error:
            raise MalformedReportError(str(error)) from error
        if len(block.rules) or (block.items["role"] == 0).any():
            raise MalformedReportError("matches in frames of the history")

    def _settle(self) -> None:
        """Ask the next process again what the last one has not answered."""
        self._channel.close()
        self._waiting = self._sent | self._waiting
        self._sent, self._parts, self._silent_ticks = {}, [], 0

    def _restart(self) -> None:
        super()._restart()
        self._send()
