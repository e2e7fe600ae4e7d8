"""The plan: which packets the kernel must pass on for the rules. Runs in the supervisor, on load.

A plan is sound: a packet is ignored only if no rule can match it. `sensor.rules.prefilter.prefix`
derives what a rule needs, and `sensor.rules.prefilter.emit` writes the code that the kernel runs.
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
from sensor.rules.prefilter.prefix import ANYTHING, WORD, Prefix, prefixes, word_of
from sensor.rules.prefilter.prefix_set import PrefixSet

OTHER = None
PROTOCOLS = (TCP, UDP, OTHER)
"""The protocols that a rule can name, and one entry for all others."""
PORTS = 65536
MOST_PREFIXES = 1500
"""Limit per plan: a prefix takes about 13 instructions, and a jump spans at most 32,767."""
UNKNOWN_CLASS = 0
"""The class of all ports while the map is not filled: everything passes."""
FREE_CLASS = 1
"""The class of a port that no rule names: nothing passes because of it."""


class Demand(NamedTuple):
    """The needs of one rule: packets with one of the prefixes."""

    rule: Rule
    prefixes: frozenset[Prefix]


def demands(rules: Iterable[Rule], http: HttpReading) -> tuple[Demand, ...]:
    """Return what each rule needs; ``http`` is the definition of HTTP that the matcher uses."""
    return tuple(Demand(rule, prefixes(rule, http)) for rule in rules)


def _applicable(every: Iterable[Demand], protocol: int | None) -> Iterator[Demand]:
    """Yield the demands of rules that can match packets of a protocol; `OTHER`: one that no rule names."""
    for demand in every:
        rule = demand.rule
        if (
            rule.protocol is None and not rule.port
            if protocol is OTHER
            else rule.protocol in (None, protocol)
        ):
            yield demand


@dataclass(frozen=True)
class Needs:
    """The prefixes that must pass for one protocol."""

    common: PrefixSet
    """Prefixes that pass on every port."""
    ports: dict[int, PrefixSet]
    """Further prefixes that pass if the source or destination port is this one."""

    @classmethod
    def of(cls, demands: Iterable[Demand]) -> Needs:
        """Collect what the rules of a protocol need."""
        by_port: dict[int, set[Prefix]] = {0: set()}
        for rule, needed in demands:
            by_port.setdefault(rule.port, set()).update(needed)
        common = PrefixSet(by_port.pop(0))
        ports = {port: PrefixSet(needed).without(common) for port, needed in sorted(by_port.items())}
        return cls(common, {port: needed for port, needed in ports.items() if needed})

    def __bool__(self) -> bool:
        return bool(self.common or self.ports)


class Passing(NamedTuple):
    """Packets that pass, and the rules that need them."""

    protocol: int | None
    port: int
    """0: every port."""
    prefix: Prefix
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Plan:
    """The prefixes that must pass, by protocol: one entry for each of `PROTOCOLS`."""

    needs: dict[int | None, Needs]
    demands: tuple[Demand, ...] = ()
    """The demands of the rules, with prefixes cut to the length that the plan compares."""

    @classmethod
    def of(cls, demands: Sequence[Demand]) -> Plan:
        """Collect what all rules need, as exactly as `MOST_PREFIXES` allows."""
        for size in range(WORD, -1, -1):
            cut = tuple(Demand(rule, frozenset(one.cut(size) for one in needed)) for rule, needed in demands)
            plan = cls({protocol: Needs.of(_applicable(cut, protocol)) for protocol in PROTOCOLS}, cut)
            if plan.size <= MOST_PREFIXES:
                break
        return plan

    @classmethod
    def pass_all(cls) -> Plan:
        """Return the plan that ignores nothing that carries payload."""
        return cls(dict.fromkeys(PROTOCOLS, Needs(PrefixSet((ANYTHING,)), {})))

    @property
    def size(self) -> int:
        """Number of prefixes in the kernel's code; a port's prefixes count twice, once for each port."""
        tested = [needs.common for needs in self.needs.values()]
        tested += [one for both in self.classes for one in both] * 2
        return sum(map(len, tested))

    @cached_property
    def classes(self) -> dict[tuple[PrefixSet, PrefixSet], int]:
        """The class of each pair of prefix sets (TCP, UDP) that some port needs; `FREE_CLASS` for none."""
        nothing = PrefixSet(())
        numbers = {(nothing, nothing): FREE_CLASS}
        for needed in self._by_port.values():
            numbers.setdefault(needed, len(numbers) + FREE_CLASS)
        return numbers

    def passing(self) -> Iterator[Passing]:
        """Yield all that passes, with the rules that need it: for each protocol, all ports first."""
        for protocol, needs in self.needs.items():
            rules: dict[tuple[int, int, int], dict[Rule, None]] = {}
            for rule, needed in _applicable(self.demands, protocol):
                for value, mask, _ in needed:
                    rules.setdefault((rule.port, value, mask), {})[rule] = None
            for port, passing in ((0, needs.common), *needs.ports.items()):
                for prefix in passing:
                    yield Passing(protocol, port, prefix, tuple(rules[port, prefix.value, prefix.mask]))

    def port_classes(self) -> NDArray[np.uint16]:
        """Return the class of each port, shape (65536,), in host byte order."""
        classes = np.full(PORTS, FREE_CLASS, np.uint16)
        for port, needed in self._by_port.items():
            classes[port] = self.classes[needed]
        return classes

    def judge(self, protocol: int, sport: int, dport: int, payload: bytes) -> abi.Counter:
        """Return what the kernel decides: `abi.Counter.SUBMITTED`, or the reason to ignore this payload."""
        needs = self.needs.get(protocol, self.needs[OTHER])
        if not needs:
            return abi.Counter.IGNORED_PROTOCOL
        tested = [needs.common, *(needs.ports[port] for port in (sport, dport) if port in needs.ports)]
        word = word_of(payload)
        if any(one.fits(word, len(payload)) for one in tested):
            return abi.Counter.SUBMITTED
        return abi.Counter.IGNORED_PREFIX if any(tested) else abi.Counter.IGNORED_PORT

    @cached_property
    def _by_port(self) -> dict[int, tuple[PrefixSet, PrefixSet]]:
        tcp, udp = self.needs[TCP].ports, self.needs[UDP].ports
        nothing = PrefixSet(())
        return {
            port: (tcp.get(port, nothing), udp.get(port, nothing)) for port in sorted(tcp.keys() | udp.keys())
        }
