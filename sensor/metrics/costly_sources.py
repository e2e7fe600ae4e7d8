"""The sources whose packets cost the most, for metrics and ``sensor status``, and in an overload for the log.

Runs in the supervisor, once per second. The workers' tables may hold anything, since a hostile worker can
write to them: every value is bounded, and so is the number of sources that are named.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.native.source_table import SourceTable

MOST_NAMED = 5
"""Sources that are named; the others are counted together."""
LEAST_DEMAND = 0.01
"""Sources that ask for a smaller share of a CPU are not named."""
OTHER = "other"
SAMPLED = 0.95
"""A source of whose packets a larger part is matched is not worth a line in the log."""
QUIET_S = 30.0
"""Time without a sampled packet after which the sampling of a source is over."""

_MOST_DEMAND, _MOST_PACKETS = 1e4, 1e15
"""Upper bounds of what a table may say."""

log = logging.getLogger(__name__)


class CostlySource(NamedTuple):
    """A source at one moment; `OTHER` stands for all that are not named."""

    address: str
    """IPv4 address, or IPv6 network."""
    demand: float
    """Share of a CPU that it takes to match all its packets."""
    matched: float
    """Part of its packets that is matched, 0 to 1; the others are sampled."""


class _Sums(NamedTuple):
    """Sums of one source, or of several."""

    demand: float = 0.0
    offered: float = 0.0
    matched: float = 0.0
    sampled: float = 0.0

    def plus(self, other: _Sums) -> _Sums:
        return _Sums._make(map(sum, zip(self, other, strict=True)))

    def minus(self, other: _Sums) -> _Sums:
        return _Sums._make(max(0.0, one - less) for one, less in zip(self, other, strict=True))

    def figures(self, address: str) -> CostlySource:
        matched = min(1.0, self.matched / self.offered) if self.offered else 1.0
        return CostlySource(address, self.demand, matched)


@dataclass
class _Episode:
    """A time in which a source is sampled."""

    begun_s: float
    last_s: float
    packets: float = 0


class CostlySources:
    """The sources that ask for the most time of all workers together."""

    def __init__(self, tables: Sequence[SourceTable], clock: Callable[[], float] = time.monotonic) -> None:
        """Read these tables, one per worker; ``clock`` returns seconds."""
        self.figures = [_Sums().figures(OTHER)]
        """The costliest first, and `OTHER` at the end."""
        self._tables, self._clock = tables, clock
        self._changed_ns = [0] * len(tables)
        self._total = 0
        self._sampled: dict[str, float] = {}  # packets of each named source, at the last look
        self._episodes: dict[str, _Episode] = {}

    def tick(self, sampled: int) -> None:
        """Look at the tables, and log which sources are sampled; call this once per second.

        ``sampled`` is the number of packets sampled since the start.
        """
        now_s = self._clock()
        named, others = self._look()
        before = self._sampled
        new = sampled - self._total
        packets = {
            address: min(max(0.0, sums.sampled - before.get(address, 0.0)), new)
            for address, sums in named.items()
        }
        packets[OTHER] = max(0.0, new - sum(packets.values()))
        if packets[OTHER] < new / 2:  # some packets of sources that are named from now on
            packets[OTHER] = 0
        self._total, self._sampled = sampled, {address: sums.sampled for address, sums in named.items()}
        self.figures = [sums.figures(address) for address, sums in (*named.items(), (OTHER, others))]
        for source in self.figures:
            if packets[source.address] and source.matched < SAMPLED:
                self._note(source, packets[source.address], now_s)
        self._end_episodes(now_s)

    def _look(self) -> tuple[dict[str, _Sums], _Sums]:
        """Return the sums of the costliest sources by address, the costliest first, and of all others."""
        found: dict[str, _Sums] = {}
        total = _Sums()
        for number, table in enumerate(self._tables):
            changed_ns = table.changed_ns
            if changed_ns == self._changed_ns[number]:  # the worker had nothing to match
                continue
            self._changed_ns[number] = changed_ns
            columns = _columns(table, changed_ns)
            total = total.plus(_Sums(*columns.sum(axis=1).tolist()))
            for address, sums in _costliest(table, columns):
                found[address] = found.get(address, _Sums()).plus(sums)
        order = sorted(found, key=lambda address: found[address].demand, reverse=True)
        named = {address: found[address] for address in order[:MOST_NAMED]}
        for sums in named.values():
            total = total.minus(sums)
        return named, total

    def _note(self, source: CostlySource, packets: float, now_s: float) -> None:
        """Note that packets of a source were sampled; log it if that begins now."""
        episode = self._episodes.get(source.address)
        if episode is None:
            if len(self._episodes) > MOST_NAMED:
                return
            episode = self._episodes[source.address] = _Episode(now_s, now_s)
            log.warning(
                "overload: packets from %s are sampled, %.0f %% of them are matched; "
                "all of them would take %.0f %% of a CPU",
                _text(source.address),
                100 * source.matched,
                100 * source.demand,
            )
        episode.last_s = now_s
        episode.packets += packets

    def _end_episodes(self, now_s: float) -> None:
        """Log the sources that have not been sampled for some time."""
        for address, episode in list(self._episodes.items()):
            if now_s - episode.last_s >= QUIET_S:
                del self._episodes[address]
                log.warning(
                    "overload over: packets from %s are no longer sampled; %s were not matched in %.0f s",
                    _text(address),
                    f"{episode.packets:,.0f}",
                    episode.last_s - episode.begun_s + 1,
                )


def _text(address: str) -> str:
    return "many sources" if address == OTHER else address


def _columns(table: SourceTable, now_ns: int) -> NDArray[np.float64]:
    """Return demand, offered, matched and sampled of every place, shape (4, SOURCES + 1), within bounds."""
    listing = table.listing(now_ns)
    sampled = np.append(table.sampled(), 0)
    columns = np.array([listing.demand, listing.offered, listing.matched, sampled], np.float64)
    most = np.array([[_MOST_DEMAND], *[[_MOST_PACKETS]] * 3])
    return np.clip(np.nan_to_num(columns, nan=0.0), 0.0, most)


def _costliest(table: SourceTable, columns: NDArray[np.float64]) -> Iterator[tuple[str, _Sums]]:
    """Yield the costliest sources of a table with their addresses."""
    demand = columns[0, :-1]
    places = np.flatnonzero(demand >= LEAST_DEMAND)
    places = places[np.argsort(demand[places])[::-1]][: 4 * MOST_NAMED]
    for place, source in zip(places.tolist(), table.sources(places), strict=True):
        packed = source["address"].tobytes()
        if source["version"] == 6:
            yield f"{IPv6Address(packed[:8] + bytes(8))}/64", _Sums(*columns[:, place].tolist())
        else:
            yield str(IPv4Address(packed[:4])), _Sums(*columns[:, place].tolist())
