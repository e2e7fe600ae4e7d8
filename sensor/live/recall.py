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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor import native
from sensor.capture.clock import WallClock
from sensor.capture.history import CpuHistory
from sensor.decode import decode
from sensor.evidence.block import EvidenceBlock, block_of_packets
from sensor.live.recall_channel import RecallChannel
from sensor.model import Role
from sensor.native.frame_history import HistoryEnd, HistoryFrames, HistoryReader
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
        while len(requests := channel.receive()):
            for report in finder.answers(requests):
                channel.answers.report(report)


class _CpuFrames(NamedTuple):
    """Frames from the history of a CPU, for one request."""

    request: int
    """Its place among the requests."""
    cpu: int
    frames: HistoryFrames


class ContextFinder:
    """Finds the frames of flows in the history of every CPU."""

    def __init__(self, histories: Sequence[CpuHistory], flow_hash: FlowHash, linktype: int) -> None:
        self._readers = {one.cpu: HistoryReader(one.chunks, one.heads) for one in histories}
        self._flow_hash, self._linktype = flow_hash, linktype
        self._clock = WallClock()

    def answers(self, requests: NDArray[np.void]) -> Iterator[BatchReport]:
        """Yield a report for each `REQUEST`: all are decoded at once, which takes little longer than for one.

        In a report, ``tail`` is the number of the request, and ``cut`` is 1 if older frames are gone.
        """
        self._clock.remeasure()
        cut, found = np.zeros(len(requests), np.bool_), []
        for place, request in enumerate(requests):
            hashes = dict.fromkeys([*request["hashes"].tolist(), 0])  # 0: what the kernel could not parse
            for cpu, reader in self._readers.items():
                for flow_hash in hashes:
                    frames = reader.collect(flow_hash, int(request["from_ktime_ns"]))
                    cut[place] |= bool(flow_hash) and frames.end > HistoryEnd.SINCE
                    if len(frames.records):
                        found.append(_CpuFrames(place, cpu, frames))
        block, request_of_item = self._block(requests, found)
        ends = np.searchsorted(request_of_item, np.arange(len(requests)), "right").tolist()
        for place, number in enumerate(requests["number"].tolist()):
            part = block.part(ends[place - 1] if place else 0, ends[place]) if block else None
            yield BatchReport(0, number, len(part) if part else 0, 0, 0, int(cut[place]), part)

    def _block(
        self, requests: NDArray[np.void], found: Sequence[_CpuFrames]
    ) -> tuple[EvidenceBlock | None, NDArray[np.intp]]:
        """Return the frames that are of the flows asked for, and the request of each, ascending."""
        if not found:
            return None, np.empty(0, np.intp)
        sizes = [len(one.frames.records) for one in found]
        asked = np.repeat([one.request for one in found], sizes)
        records = np.concatenate([one.frames.records for one in found])
        data_bytes = np.array([len(one.frames.data) for one in found])
        records["start"] += np.repeat(np.cumsum(data_bytes) - data_bytes, sizes).astype(np.uint64)
        whole = HistoryFrames(records, np.concatenate([one.frames.data for one in found]), HistoryEnd.WHOLE)
        batch = replace(whole.batch(self._linktype, self._clock.offset_ns), ktime_ns=records["time_ns"])
        packets = decode(batch)
        has_ip = np.flatnonzero(packets.ip_version != 0)
        keys = self._flow_hash.keys(whole.data, packets, has_ip)
        is_own = (keys[:, None] == requests["flows"][asked[has_ip]]).any(axis=1)
        is_own &= records["time_ns"][has_ip] <= requests["until_ktime_ns"][asked[has_ip]]
        chosen, flows = has_ip[is_own], keys[is_own]
        nothing = np.zeros(len(chosen), np.int64), np.empty(0, np.uint32), ()
        block = block_of_packets(batch, packets, chosen, flows, *nothing, roles=Role.BEFORE)
        block.items["cpu"] = np.repeat([one.cpu for one in found], sizes)[chosen]
        return block, asked[chosen]
