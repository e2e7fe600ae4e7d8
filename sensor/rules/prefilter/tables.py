"""The plan as tables, in the form in which the kernel uses it. Runs where rules are loaded."""

from __future__ import annotations

import numpy as np

from sensor import abi
from sensor.capture.plan_maps import FirstStates, KernelPlan
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.prefilter.decision import Decisions, TableFullError
from sensor.rules.prefilter.merging import merged
from sensor.rules.prefilter.plan import OTHER, PORTS, Needs, Plan
from sensor.rules.prefilter.prefix import beginnings
from sensor.rules.prefilter.prefix_set import PrefixSet

_STEPS_FOR_PORTS = 32
"""Steps that are kept for what passes on one port only."""
_COPIES = (16, 4, 0)
"""Numbers of copies per prefix that are tried one after the other, until the tables are large enough."""
_SOME_COPIES = 1000
_LESS = 0.75
"""Share of the prefixes that are left where even tables without copies were too small."""


def kernel_plan(plan: Plan, http: HttpReading) -> KernelPlan:
    """Return the plan in the form that is loaded with the XDP program."""
    needs, copies, share = plan.needs, list(_COPIES), 1.0
    while True:
        decisions = Decisions(_count(needs) * copies[0] + _SOME_COPIES)
        try:
            tables = _tables(needs, http, decisions)
        except TableFullError:
            if copies[1:]:
                del copies[0]
            else:
                share *= _LESS
                needs = {protocol: _fewer(one, share) for protocol, one in plan.needs.items()}
        else:
            return tables._replace(merged=_count(plan.needs) - _count(needs) + decisions.lost)


def _tables(needs: dict[int | None, Needs], http: HttpReading, decisions: Decisions) -> KernelPlan:
    ports = np.empty((2, PORTS), np.uint32)
    first = {protocol: _add_common(one, decisions) for protocol, one in needs.items()}
    for row, protocol in enumerate((TCP, UDP)):
        ports[row] = first[protocol]
        common = first[protocol] if needs[protocol].common else abi.Counter.IGNORED_PREFIX
        for port, prefixes in needs[protocol].ports.items():
            ports[row, port] = decisions.add(prefixes.prefixes, common, abi.PLAN_STEPS, is_frequent=False)
    looks_like_http = decisions.add(
        PrefixSet(beginnings(http)).prefixes, abi.Counter.IGNORED_PREFIX, abi.PLAN_STEPS, is_frequent=True
    )
    return KernelPlan(
        FirstStates(*map(int, (first[TCP], first[UDP], first[OTHER], looks_like_http))),
        ports,
        decisions.rows,
        decisions.prefixes,
    )


def _add_common(needs: Needs, decisions: Decisions) -> int:
    """Return the first state for ports that no rule names."""
    if not needs:
        return abi.Counter.IGNORED_PROTOCOL
    if not needs.common:
        return abi.Counter.IGNORED_PORT
    most_steps = abi.PLAN_STEPS - _STEPS_FOR_PORTS
    return decisions.add(needs.common.prefixes, abi.Counter.IGNORED_PREFIX, most_steps, is_frequent=True)


def _count(needs: dict[int | None, Needs]) -> int:
    """Return the number of prefixes."""
    return sum(len(one.common) + sum(map(len, one.ports.values())) for one in needs.values())


def _fewer(needs: Needs, share: float) -> Needs:
    """Return needs with a share of the prefixes; the others are merged with them."""
    return Needs(
        merged(needs.common, int(len(needs.common) * share)) if needs.common else needs.common,
        {port: merged(one, int(len(one) * share)) for port, one in needs.ports.items()},
    )
