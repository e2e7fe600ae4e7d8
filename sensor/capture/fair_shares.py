"""Fair shares: in an overload, the sources that cost the most are sampled, so that all others are matched.

Runs in the capture workers. A ring fills when a worker needs more time for its frames than passes between
them. Once it is full, the kernel drops frames without looking at them: a source whose packets are costly to
match would hide everybody else's. So time is shared by max-min fairness (Bertsekas and Gallager, Data
Networks, section 6.5.2): each source may use as much as it asks for, up to a level that is the same for all.
The decision on a frame is that of Approximate Fair Dropping (Pan, Breslau, Prabhakar and Shenker, 2003): a
source above the level keeps the part ``level / demand`` of its packets. Those are whole flows for an eighth
of a second, so that a request of several packets is found or not found as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.native.source_table import Listing, SourceColumns, SourceTable

FREE_FILL = 1 / 8
"""Nothing is sampled while the ring is no fuller than this."""
FULL_FILL = 5 / 8
"""From here on the ring has to empty, so the dearest sources get only `LEAST` of their share."""
LEAST = 0.1
WHOLE = 0.9
"""Part of a CPU to share out; the rest is for work that is nobody's."""
LEVELS_NS = 20_000_000
"""Time for which levels hold at least."""
LEVELS_PART = 0.05
"""Largest part of the worker's time for finding levels: with a full table, it takes some milliseconds."""
REMEMBERED = 0.9
"""Weight of what was measured before, relative to the latest measurement."""
USUAL_PART = 0.5
"""Largest part of the capacity for what sources usually ask for, before the rest is shared out."""
UNKNOWN_PART = 0.5
"""Part of the capacity for the sources that are not known, all together, if known ones ask for the rest."""


class Levels(NamedTuple):
    """The largest share of a CPU that a source may have; infinite if everything is matched."""

    known: float = inf
    """For a source that has sent for some time."""
    unknown: float = inf
    usual: float = 0.0
    """This part of what it usually asks for comes on top, 0 to 1."""


class _Mean:
    """A mean time in nanoseconds, in which the latest count the most."""

    def __init__(self) -> None:
        self._took_ns = self._count = 0.0

    def add(self, took_ns: int, count: int) -> None:
        self._took_ns = self._took_ns * REMEMBERED + took_ns
        self._count = self._count * REMEMBERED + count

    def value(self) -> float:
        return self._took_ns / self._count if self._count else 0.0


class FairShares:
    """How the sources of one worker share its time."""

    def __init__(self, table: SourceTable, fill: Callable[[], float]) -> None:
        """Account in ``table``; ``fill`` returns how full the worker's fullest ring is, 0 to 1."""
        self._table, self._fill = table, fill
        self._frame, self._item, self._stretch = _Mean(), _Mean(), _Mean()
        self._levels, self._levels_end_ns = Levels(), 0
        self._is_calm = True

    def admit(self, data: NDArray[np.uint8], packets: SourceColumns) -> NDArray[np.bool_]:
        """Return True for each packet to match; their frames are in ``data``."""
        everything = np.ones(len(packets.address), np.bool_)
        fill = self._fill()
        self._is_calm = fill <= FREE_FILL
        if self._is_calm or not len(everything):
            return everything
        packets_ns, now_ns = int(packets.time_ns[-1]), time.monotonic_ns()
        if now_ns >= self._levels_end_ns:
            started_ns = time.thread_time_ns()
            self._levels = levels_of(self._table.listing(packets_ns), fill)
            took_ns = time.thread_time_ns() - started_ns
            self._levels_end_ns = now_ns + max(LEVELS_NS, int(took_ns / LEVELS_PART))
        if self._levels.known == self._levels.unknown == inf:
            return everything
        return self._table.admit(data, packets, packets_ns, *self._levels)

    def charge(
        self,
        data: NDArray[np.uint8],
        packets: SourceColumns,
        match_ns: NDArray[np.int64],
        is_evidence: NDArray[np.bool_],
        took_ns: int = 0,
    ) -> None:
        """Charge packets to their sources.

        Matching may take longer than it costs, as other processes and interrupts need the CPU, too. They
        interrupt the packets of any source, so the rest is charged to all in proportion to their costs.

        Args:
            data: The buffer of the frames.
            packets: Packets that were admitted or sampled.
            match_ns: The cost of matching each packet; -1 if it was sampled.
            is_evidence: True for a packet that is reported, which takes time as well.
            took_ns: The time that matching all of them took.
        """
        own_ns = int(match_ns.sum(where=match_ns > 0))
        if own_ns:
            self._stretch.add(max(took_ns, own_ns), own_ns)
        cost_ns = match_ns * self._stretch.value() + self._frame.value() + self._item.value() * is_evidence
        self._table.charge(data, packets, np.where(match_ns < 0, match_ns, cost_ns), is_calm=self._is_calm)

    def note_turn(self, took_ns: int, frames: int) -> None:
        """Note how long everything but matching and reporting took for some frames."""
        self._frame.add(took_ns, frames)

    def note_report(self, took_ns: int, items: int) -> None:
        """Note how long a report of evidence took, including the wait for the supervisor."""
        self._item.add(took_ns, items)


def capacity_for(
    demands: NDArray[np.float64], weights: NDArray[np.float64], fill: float, whole: float = WHOLE
) -> float:
    """Return the part of a CPU to share out at this fill of the ring.

    The fuller the ring is, the less the dearest sources have of it. The others, which ask for less than the
    level at which all of it is shared out, lose nothing. If there seems to be enough for all, since an
    overload has just begun, all sources share less.
    """
    left = 1 - (1 - LEAST) * min(max((fill - FREE_FILL) / (FULL_FILL - FREE_FILL), 0.0), 1.0)
    level = fair_level(demands, weights, whole)
    others = float((demands * weights).sum(where=demands <= level)) if level < inf else 0.0
    return others + (whole - others) * left


def levels_of(listing: Listing, fill: float) -> Levels:
    """Return the levels at which the sources use no more than there is to share out.

    What is usual for a source is granted first. The rest has the same level for known and unknown sources,
    unless unknown ones would then have more than their part. Anybody can forge any number of addresses, but
    hardly the ones that were there before, and hardly what others usually ask for.
    """
    is_asking = listing.demand > 0
    is_asking[-1] = True  # the sources without a place
    listing = Listing._make(column[is_asking] for column in listing)
    asked = float(listing.usual.sum())
    usual = min(1.0, USUAL_PART * WHOLE / asked) if asked else 0.0
    demand = listing.demand - usual * listing.usual
    known = demand[listing.is_known]
    others = listing.offered[-1]  # each packet counts as a source
    unknown = np.append(demand[:-1][~listing.is_known[:-1]], demand[-1] / others if others else 0.0)
    each, weights = np.ones(len(known)), np.append(np.ones(len(unknown) - 1), others)
    everybody = np.append(known, unknown), np.append(each, weights)
    capacity = capacity_for(*everybody, fill, WHOLE - usual * asked)
    level = fair_level(*everybody, capacity)
    most = max(UNKNOWN_PART * capacity, capacity - float(known.sum()))
    if level == inf or float((np.minimum(unknown, level) * weights).sum()) <= most:
        return Levels(level, level, usual)
    return Levels(fair_level(known, each, capacity - most), fair_level(unknown, weights, most), usual)


def fair_level(demands: NDArray[np.float64], weights: NDArray[np.float64], capacity: float) -> float:
    """Return the level for which ``sum(weights * min(demands, level))`` is the capacity.

    It is infinite if the demands do not exceed the capacity. A weight is the number of sources with a demand.
    """
    order = np.argsort(demands)
    demands, weights = demands[order], weights[order]
    used_by_lower = np.cumsum(demands * weights) - demands * weights
    sources_from_here = np.cumsum(weights[::-1])[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = (capacity - used_by_lower) / sources_from_here
    above = np.flatnonzero(levels < demands)
    return max(0.0, float(levels[above[0]])) if len(above) else inf
