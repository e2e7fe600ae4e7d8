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

from collections.abc import Callable
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.native.source_table import Listing, SourceColumns, SourceTable

FREE_FILL = 1 / 8
"""Nothing is sampled while the ring is no fuller than this."""
FULL_FILL = 5 / 8
"""From here on only `LEAST_CAPACITY` is shared out, so that the ring empties."""
LEAST_CAPACITY = 0.1
"""Sources that together ask for a smaller share of a CPU are never sampled."""
REMEMBERED = 0.9
"""Weight of earlier reports, relative to the one after them, in the mean time per item of evidence."""
UNKNOWN_PART = 0.5
"""Part of the capacity for the sources that are not known, all together, if known ones ask for the rest."""


class Levels(NamedTuple):
    """The largest share of a CPU that a source may have; infinite if everything is matched."""

    known: float = inf
    """For a source that has sent for some time."""
    unknown: float = inf


class FairShares:
    """How the sources of one worker share its time."""

    def __init__(self, table: SourceTable, fill: Callable[[], float]) -> None:
        """Account in ``table``; ``fill`` returns how full the worker's fullest ring is, 0 to 1."""
        self._table, self._fill = table, fill
        self._reporting_ns = self._reported = 0.0

    def admit(self, data: NDArray[np.uint8], packets: SourceColumns) -> NDArray[np.bool_]:
        """Return True for each packet to match; their frames are in ``data``."""
        everything = np.ones(len(packets.address), np.bool_)
        fill = self._fill()
        if fill <= FREE_FILL or not len(everything):
            return everything
        now_ns = int(packets.time_ns[-1])
        levels = levels_of(self._table.listing(now_ns), capacity_at(fill))
        return everything if levels == Levels() else self._table.admit(data, packets, now_ns, *levels)

    def charge(
        self,
        data: NDArray[np.uint8],
        packets: SourceColumns,
        match_ns: NDArray[np.int64],
        is_evidence: NDArray[np.bool_],
    ) -> None:
        """Charge packets to their sources.

        Args:
            data: The buffer of the frames.
            packets: Packets that were admitted or sampled.
            match_ns: The time that matching took; -1 for a packet that was sampled.
            is_evidence: True for a packet that is reported, which takes time as well.
        """
        report_ns = self._reporting_ns / self._reported if self._reported else 0.0
        self._table.charge(data, packets, match_ns + np.int64(report_ns) * is_evidence)

    def note_report(self, took_ns: int, items: int) -> None:
        """Note how long a report of evidence took, including the wait for the supervisor."""
        self._reporting_ns = self._reporting_ns * REMEMBERED + took_ns
        self._reported = self._reported * REMEMBERED + items


def capacity_at(fill: float) -> float:
    """Return the share of a CPU to share out at this fill of the ring: 1 at first, then less and less."""
    above = min(max((fill - FREE_FILL) / (FULL_FILL - FREE_FILL), 0.0), 1.0)
    return 1.0 - (1.0 - LEAST_CAPACITY) * above


def levels_of(listing: Listing, capacity: float) -> Levels:
    """Return the levels at which the sources use no more than the capacity.

    Known and unknown sources have the same level, unless unknown ones would then have more than their part.
    Anybody can forge any number of addresses, but hardly the ones that were there before.
    """
    known = listing.demand[listing.is_known]
    others = listing.offered[-1]  # each packet counts as a source
    unknown = np.append(
        listing.demand[:-1][~listing.is_known[:-1]], listing.demand[-1] / others if others else 0.0
    )
    each, weights = np.ones(len(known)), np.append(np.ones(len(unknown) - 1), others)
    level = fair_level(np.append(known, unknown), np.append(each, weights), capacity)
    most = max(UNKNOWN_PART * capacity, capacity - float(known.sum()))
    if level == inf or float(np.minimum(unknown, level) @ weights) <= most:
        return Levels(level, level)
    return Levels(fair_level(known, each, capacity - most), fair_level(unknown, weights, most))


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
