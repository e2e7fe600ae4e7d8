"""What the rules let the kernel ignore, as ``struct plan``; runs in the supervisor, on load.

The plan is sound: a packet is ignored only where no rule could apply to it. A plan of
zeroes ignores nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.model import Rule

TCP, UDP = 6, 17


def pass_all() -> NDArray[np.void]:
    """The plan that lets every payload through: one `abi.PLAN`, shape ()."""
    return np.zeros((), abi.PLAN)


def plan_rules(rules: Iterable[Rule]) -> NDArray[np.void]:
    """Derive from the rules' protocols and ports what none of them can apply to: one `abi.PLAN`, shape ()."""
    wanted = list(rules)
    plan = pass_all()
    plan["ignored_protocols"] = _bitmap(_ignored_protocols(wanted))
    plan["ignored_tcp_ports"] = _bitmap(_ignored_ports(wanted, TCP))
    plan["ignored_udp_ports"] = _bitmap(_ignored_ports(wanted, UDP))
    return plan


def _ignored_protocols(rules: Iterable[Rule]) -> NDArray[np.bool_]:
    ignored = np.ones(256, bool)
    for rule in rules:
        if rule.protocol is not None:
            ignored[rule.protocol] = False
        elif rule.port:
            ignored[[TCP, UDP]] = False  # nothing else has a port
        else:
            ignored[:] = False
    return ignored


def _ignored_ports(rules: Iterable[Rule], protocol: int) -> NDArray[np.bool_]:
    ignored = np.ones(65536, bool)
    for rule in rules:
        if rule.protocol in (None, protocol):
            ignored[rule.port or slice(None)] = False
    return ignored


def _bitmap(members: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return np.packbits(members, bitorder="little").view("<u8")
