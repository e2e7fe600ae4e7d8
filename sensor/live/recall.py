"""The process that finds the context of a match in the history of every CPU.

Forked from the supervisor. It parses the frames of strangers, so it has a sandbox of its own: it can read the
history, and otherwise only answer requests.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from sensor import native
from sensor.capture.clock import WallClock
from sensor.capture.history import CpuHistory
from sensor.decode import decode
from sensor.evidence.block import EvidenceBlock, block_of_packets, joined
from sensor.live.recall_channel import RecallChannel
from sensor.model import Role
from sensor.native.frame_history import HistoryEnd, HistoryFrames, collect
from sensor.pipeline import BatchReport
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole
from sensor.process.prctl import end_with_parent, set_process_name
from sensor.rules.engine.flows import FlowHash

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def recall(
    channel: RecallChannel,
    histories: Sequence[CpuHistory],
    flow_hash: FlowHash,
    linktype: int,
    supervisor: int,
) -> None:
    """Answer requests until the supervisor, a process id, closes the channel or ends."""
    end_with_parent(supervisor)
    set_process_name("sensor-recall")
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # memory inherited from the supervisor stays shared as long as it is not written
    channel.enter_recaller()
    sandbox.enter(
        ProcessRole.RECALLER,
        descriptors=channel.recaller_fds,
        shared=[
            channel.answers.shared_address,
            *(native.address(memoryview(part)) for cpu in histories for part in (cpu.chunks, cpu.heads)),
        ],
        supervisor=supervisor,
    )
    finder = ContextFinder(histories, flow_hash, linktype)
    with suppress(BrokenPipeError, ConnectionResetError):
        while (request := channel.receive()) is not None:
            channel.answers.report(finder.answer(request))


class ContextFinder:
    """Finds the frames of a flow in the history of every CPU."""

    def __init__(self, histories: Sequence[CpuHistory], flow_hash: FlowHash, linktype: int) -> None:
        self._histories, self._flow_hash, self._linktype = histories, flow_hash, linktype
        self._clock = WallClock()

    def answer(self, request: np.void) -> BatchReport:
        """Return the frames for a `REQUEST`.

        In the report, ``tail`` is the number of the request, and ``cut`` is 1 if older frames are gone.
        """
        self._clock.remeasure()
        hashes = dict.fromkeys([*request["hashes"].tolist(), 0])  # 0: frames that the kernel could not parse
        blocks: list[EvidenceBlock] = []
        is_cut = False
        for history in self._histories:
            for flow_hash in hashes:
                found = collect(history.chunks, history.heads, flow_hash, int(request["from_ktime_ns"]))
                is_cut |= bool(flow_hash) and found.end > HistoryEnd.SINCE
                blocks.extend(self._blocks(request, found, history.cpu))
        block = joined(blocks) if blocks else None
        frames = len(block) if block else 0
        return BatchReport(0, int(request["number"]), frames, 0, 0, int(is_cut), block)

    def _blocks(self, request: np.void, found: HistoryFrames, cpu: int) -> Iterator[EvidenceBlock]:
        """Yield the frames of the flow among those found in the history of a CPU."""
        if not len(found.records):
            return
        batch = found.batch(self._linktype, self._clock.offset_ns)
        batch = replace(batch, ktime_ns=found.records["time_ns"], cpu=cpu)
        packets = decode(batch)
        has_ip = np.flatnonzero(packets.ip_version != 0)
        keys = self._flow_hash.keys(found.data, packets, has_ip)
        is_own = np.isin(keys, request["flows"])
        chosen, flows = has_ip[is_own], keys[is_own]
        nothing = np.zeros(len(chosen), np.int64), np.empty(0, np.uint32), ()
        yield block_of_packets(batch, packets, chosen, flows, *nothing, roles=Role.BEFORE)
