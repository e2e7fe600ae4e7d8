"""The plan: which packets the kernel must pass on for the rules. Runs in the supervisor, on load.

A plan is sound: a packet is ignored only if no rule can match it. `sensor.rules.prefilter.prefix`
derives what a rule needs, and `sensor.rules.prefilter.tables` writes the tables that the kernel reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sensor import abi
from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.prefilter.prefix import ANYTHING, Prefix, prefixes, word_of
from sensor.rules.prefilter.prefix_set import PrefixSet

OTHER = None
PROTOCOLS = (TCP, UDP, OTHER)
"""The protocols that a rule can name, and one entry for all others."""
PORTS = 65536


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
    """The needs of each rule."""

    @classmethod
    def of(cls, demands: Sequence[Demand]) -> Plan:
        """Collect what all rules need."""
        needs = {protocol: Needs.of(_applicable(demands, protocol)) for protocol in PROTOCOLS}
        return cls(needs, tuple(demands))

    @classmethod
    def pass_all(cls) -> Plan:
        """Return the plan that ignores nothing that carries payload."""
        return cls(dict.fromkeys(PROTOCOLS, Needs(PrefixSet((ANYTHING,)), {})))

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

    def judge(self, protocol: int, sport: int, dport: int, payload: bytes) -> abi.Counter:
        """Return what the kernel decides: `abi.Counter.SUBMITTED`, or the reason to ignore this payload.

        If there are so many prefixes that some had to be merged, the kernel lets more payloads pass.
        """
        needs = self.needs.get(protocol, self.needs[OTHER])
        if not needs:
            return abi.Counter.IGNORED_PROTOCOL
        tested = [needs.common, *(needs.ports[port] for port in (sport, dport) if port in needs.ports)]
        word = word_of(payload)
        if any(one.fits(word, len(payload)) for one in tested):
            return abi.Counter.SUBMITTED
        return abi.Counter.IGNORED_PREFIX if any(tested) else abi.Counter.IGNORED_PORT
