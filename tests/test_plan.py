"""The plan for the kernel never hides a packet that a rule could apply to."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensor.model import Rule
from sensor.rules.plan import TCP, UDP, pass_all, plan_rules

ICMP = 1
PORTS = st.sampled_from([0, 1, 53, 80, 443, 65535])

rules = st.builds(
    lambda protocol, port: Rule(1, "service", "t", "n", "x", protocol=protocol, port=port),
    st.sampled_from([None, TCP, UDP]),
    PORTS,
)


def in_set(words: NDArray[np.uint64], member: int) -> bool:
    """The test of the kernel program, in Python."""
    return bool(int(words[member >> 6]) >> (member & 63) & 1)


def ignores(plan: NDArray[np.void], protocol: int, sport: int, dport: int) -> bool:
    """What ``judge_payload`` in ``bpf/prefilter.c`` decides."""
    if in_set(plan["ignored_protocols"], protocol):
        return True
    ports = {TCP: "ignored_tcp_ports", UDP: "ignored_udp_ports"}.get(protocol)
    return ports is not None and in_set(plan[ports], sport) and in_set(plan[ports], dport)


def applies(rule: Rule, protocol: int, sport: int, dport: int) -> bool:
    """Whether a rule's conditions on the headers hold."""
    return rule.protocol in (None, protocol) and rule.port in (0, sport, dport)


@given(st.lists(rules, max_size=4), st.sampled_from([ICMP, TCP, UDP, 132]), PORTS, PORTS)
def test_ignored_exactly_where_no_rule_applies(
    chosen: list[Rule], protocol: int, sport: int, dport: int
) -> None:
    """A packet is ignored when, and only when, no rule's protocol and port could apply."""
    if protocol not in (TCP, UDP):
        sport = dport = 0
    expected = not any(applies(rule, protocol, sport, dport) for rule in chosen)
    assert ignores(plan_rules(chosen), protocol, sport, dport) == expected


def test_a_plan_of_zeroes_ignores_nothing() -> None:
    """What a map holds before it is filled lets everything through."""
    assert not pass_all().tobytes().strip(b"\0")
    assert not ignores(pass_all(), TCP, 1, 2)
