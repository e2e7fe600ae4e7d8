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
from sensor.evidence.batch_report import BatchReport
from sensor.evidence.block import EvidenceBlock, block_of_packets
from sensor.live.recall_channel import RecallChannel
from sensor.model import Role
from sensor.native.frame_history import HistoryEnd, HistoryFrames, HistoryReader
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole
from sensor.process.prctl import end_with_parent, set_process_name
from sensor.rules.engine.flows import FlowHash

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNPARSED = 0
"""The hash of frames that the kernel could not parse."""


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
    """Frames from the history of a CPU."""

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
            for cpu, reader in self._readers.items():
                for flow_hash in dict.fromkeys(request["hashes"].tolist()):
                    frames = reader.collect(flow_hash, int(request["from_ktime_ns"]))
                    cut[place] |= frames.end > HistoryEnd.SINCE
                    found.append(_CpuFrames(cpu, frames))
        is_unparsed = requests["is_unparsed"] != 0
        if is_unparsed.any():
            for cpu, reader in self._readers.items():
                frames = reader.collect(_UNPARSED, int(requests["from_ktime_ns"][is_unparsed].min()))
                cut |= is_unparsed & (frames.end == HistoryEnd.FULL)
                found.append(_CpuFrames(cpu, frames))
        block, sizes = self._block(requests, found)
        ends = np.cumsum(sizes).tolist()
        for place, number in enumerate(requests["number"].tolist()):
            part = block.part(ends[place] - sizes[place], ends[place]) if sizes[place] else None
            yield BatchReport(0, number, len(part) if part else 0, 0, 0, int(cut[place]), part)

    def _block(
        self, requests: NDArray[np.void], found: Sequence[_CpuFrames]
    ) -> tuple[EvidenceBlock, list[int]]:
        """Return the frames of each request, one request after the other, and their numbers."""
        counts = [len(one.frames.records) for one in found]
        records = np.concatenate([one.frames.records for one in found])
        cpus = np.repeat([one.cpu for one in found], counts)
        data_bytes = np.array([len(one.frames.data) for one in found])
        records["start"] += np.repeat(np.cumsum(data_bytes) - data_bytes, counts).astype(np.uint64)
        whole = HistoryFrames(records, np.concatenate([one.frames.data for one in found]), HistoryEnd.WHOLE)
        batch = replace(whole.batch(self._linktype, self._clock.offset_ns), ktime_ns=records["time_ns"])
        packets = decode(batch)
        # Requests may have found the same frames, as those of fragments.
        _, once = np.unique(np.stack([records["time_ns"], cpus.astype(np.uint64)]), axis=1, return_index=True)
        once = once[packets.ip_version[once] != 0]
        keys, times_ns = self._flow_hash.keys(whole.data, packets, once), records["time_ns"][once]
        own = [
            np.flatnonzero(
                np.isin(keys, request["flows"])
                & (times_ns >= request["from_ktime_ns"])
                & (times_ns <= request["until_ktime_ns"])
            )
            for request in requests
        ]
        positions = np.concatenate(own)
        chosen, flows = once[positions], keys[positions]
        nothing = np.zeros(len(chosen), np.int64), np.empty(0, np.uint32), ()
        block = block_of_packets(batch, packets, chosen, flows, *nothing, roles=Role.BEFORE)
        block.items["cpu"] = cpus[chosen]
        return block, list(map(len, own))
