"""What the rules let the kernel ignore; runs in the supervisor, on load.

A plan is sound: a packet is ignored only where no rule could hit it. What a rule asks for comes
from `sensor.rules.prefilter.prefix`; what the kernel runs is written by `sensor.rules.prefilter.emit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.prefilter.prefix import ANYTHING, WORD, Prefix, PrefixSet, prefixes, word_of

OTHER = None
PROTOCOLS = (TCP, UDP, OTHER)
"""Those that a rule can name, and all others together."""
PORTS = 65536
MOST_PREFIXES = 1500
"""Each takes some 13 instructions, and a jump reaches over 32,767."""
UNKNOWN_CLASS = 0
"""Of a port in a map that was not filled: everything passes."""
FREE_CLASS = 1
"""Of a port that no rule asks for: nothing passes for its sake."""


class Demand(NamedTuple):
    """What one rule asks the kernel for: packets with one of the prefixes."""

    rule: Rule
    prefixes: frozenset[Prefix]


def demands(rules: Iterable[Rule], http: HttpReading) -> tuple[Demand, ...]:
    """Say of each rule what it asks for, in the reading of HTTP that is matched by."""
    return tuple(Demand(rule, prefixes(rule, http)) for rule in rules)


def _concerning(found: Iterable[Demand], protocol: int | None) -> Iterator[Demand]:
    """Yield those whose rules may hit packets of a protocol, or of one that rules cannot name."""
    for demand in found:
        rule = demand.rule
        if (
            rule.protocol is None and not rule.port
            if protocol is OTHER
            else rule.protocol in (None, protocol)
        ):
            yield demand


@dataclass(frozen=True)
class Needs:
    """What has to pass of one protocol."""

    common: PrefixSet
    """On every port."""
    ports: dict[int, PrefixSet]
    """Besides, on either port."""

    @classmethod
    def of(cls, found: Iterable[Demand]) -> Needs:
        """Gather what the rules of a protocol ask for."""
        by_port: dict[int, set[Prefix]] = {0: set()}
        for rule, asked in found:
            by_port.setdefault(rule.port, set()).update(asked)
        common = PrefixSet(by_port.pop(0))
        ports = {port: PrefixSet(asked).without(common) for port, asked in sorted(by_port.items())}
        return cls(common, {port: asked for port, asked in ports.items() if asked})

    def __bool__(self) -> bool:
        return bool(self.common or self.ports)


class Passing(NamedTuple):
    """Packets that pass, and the rules that ask for them."""

    protocol: int | None
    port: int
    """0: every port."""
    prefix: Prefix
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Plan:
    """What has to pass, by protocol; one entry for each of `PROTOCOLS`."""

    needs: dict[int | None, Needs]
    demands: tuple[Demand, ...] = ()
    """Of the rules, as exact as the plan is."""

    @classmethod
    def of(cls, found: Sequence[Demand]) -> Plan:
        """Gather what all rules ask for, as exactly as `MOST_PREFIXES` allow."""
        for size in range(WORD, -1, -1):
            cut = tuple(Demand(rule, frozenset(one.cut(size) for one in asked)) for rule, asked in found)
            plan = cls({protocol: Needs.of(_concerning(cut, protocol)) for protocol in PROTOCOLS}, cut)
            if plan.size <= MOST_PREFIXES:
                break
        return plan

    @classmethod
    def pass_all(cls) -> Plan:
        """Ignore nothing that carries payload."""
        return cls(dict.fromkeys(PROTOCOLS, Needs(PrefixSet((ANYTHING,)), {})))

    @property
    def size(self) -> int:
        """Count the prefixes that are tried in the kernel's code; those of a port stand there twice."""
        asked = [needs.common for needs in self.needs.values()]
        asked += [one for both in self.classes for one in both] * 2
        return sum(map(len, asked))

    @cached_property
    def classes(self) -> dict[tuple[PrefixSet, PrefixSet], int]:
        """Number what ports ask for of TCP and of UDP; `FREE_CLASS` for nothing."""
        nothing = PrefixSet(())
        found = {(nothing, nothing): FREE_CLASS}
        for asked in self._by_port.values():
            found.setdefault(asked, len(found) + FREE_CLASS)
        return found

    def passing(self) -> Iterator[Passing]:
        """Yield all that passes and the rules that ask for it: on every port first, on single ports then."""
        for protocol, needs in self.needs.items():
            concerned = list(_concerning(self.demands, protocol))
            for port, asked in ((0, needs.common), *needs.ports.items()):
                for prefix in asked:
                    rules = (rule for rule, own in concerned if rule.port == port and prefix.is_among(own))
                    yield Passing(protocol, port, prefix, tuple(rules))

    def port_classes(self) -> NDArray[np.uint16]:
        """Return the class of each port, shape (65536,), in host byte order."""
        classes = np.full(PORTS, FREE_CLASS, np.uint16)
        for port, asked in self._by_port.items():
            classes[port] = self.classes[asked]
        return classes

    def judge(self, protocol: int, sport: int, dport: int, payload: bytes) -> abi.Counter:
        """Decide as the kernel does: `abi.Counter.SUBMITTED`, or the reason to ignore this payload."""
        needs = self.needs.get(protocol, self.needs[OTHER])
        if not needs:
            return abi.Counter.IGNORED_PROTOCOL
        asked = [needs.common, *(needs.ports[port] for port in (sport, dport) if port in needs.ports)]
        word = word_of(payload)
        if any(one.fits(word, len(payload)) for one in asked):
            return abi.Counter.SUBMITTED
        return abi.Counter.IGNORED_PREFIX if any(asked) else abi.Counter.IGNORED_PORT

    @cached_property
    def _by_port(self) -> dict[int, tuple[PrefixSet, PrefixSet]]:
        tcp, udp = self.needs[TCP].ports, self.needs[UDP].ports
        nothing = PrefixSet(())
        return {
            port: (tcp.get(port, nothing), udp.get(port, nothing)) for port in sorted(tcp.keys() | udp.keys())
        }
