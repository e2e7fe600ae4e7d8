"""The marked packet of ``sensor selftest``: one that a rule in force matches, and that nothing else sends.

Its addresses are for documentation (RFC 5737), or of the first watched network, and its payload ends with a
token. So its evidence can be told from all other; retention treats it as any other.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from sensor.bench.traffic.frames import (
    ACK,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    PSH,
    Address,
    Host,
    ethernet,
    packets,
    tcp,
    udp,
)
from sensor.config.settings import Settings
from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine.expression import Expression
from sensor.rules.engine.profile import PROFILES
from sensor.rules.engine.witness import witness_texts
from sensor.rules.obstacles import Specimen, match

_FORMS = (
    b"%b",
    b"GET / HTTP/1.1\r\nHost: selftest\r\n%b\r\n",
    b"GET /%b HTTP/1.1\r\nHost: selftest\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n%b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n%b\r\n",
)
"""Surroundings that a text may need, for a rule to look at it."""
_TEXTS = 8
"""Texts that are tried per rule."""
_SENDER, _RECEIVER = bytes.fromhex("02005e000001"), bytes.fromhex("02005e000002")
_FIRST_PORT = 49_152
"""First of the ports that belong to no service (RFC 6335)."""


@dataclass(frozen=True)
class MarkedPacket:
    """A packet that a rule matches."""

    rule: Rule
    token: bytes
    protocol: int
    payload: bytes
    source: Address
    destination: Address
    sport: int
    dport: int

    def frame(self) -> bytes:
        """Return it as an Ethernet frame."""
        ends = self.source, self.sport, self.destination, self.dport
        if self.protocol == UDP:
            body = udp(*ends, self.payload)
        else:
            body = tcp(*ends, seq=1, ack=1, flags=PSH | ACK, payload=self.payload)
        sender, receiver = Host(_SENDER, self.source), Host(_RECEIVER, self.destination)
        [packet] = packets(sender, receiver, self.protocol, body, identification=1)
        ethertype = ETHERTYPE_IPV4 if self.source.version == 4 else ETHERTYPE_IPV6
        return ethernet(_SENDER, _RECEIVER, ethertype, packet)


def marked_packet(rules: Iterable[Rule], settings: Settings) -> MarkedPacket | None:
    """Return a packet that one of the rules matches, preferably one that is no threat.

    None if no such packet is found.
    """
    wanted = [rule for rule in rules if settings.keep != "threat" or rule.rule_class == "threat"]
    token = b"sensor-selftest-" + secrets.token_hex(8).encode()
    sport = _FIRST_PORT + secrets.randbelow(1 << 14)
    source, destination = _ends(settings)
    for rule in sorted(wanted, key=lambda rule: (rule.rule_class == "threat", rule.is_http)):
        protocol, dport = rule.protocol or TCP, rule.port or 80
        for payload in _payloads(rule, token):
            specimen = Specimen(payload, protocol, sport, dport)
            if match(rule, specimen, PROFILES[settings.profile]):
                return MarkedPacket(rule, token, protocol, payload, source, destination, sport, dport)
    return None


def _payloads(rule: Rule, token: bytes) -> Iterator[bytes]:
    for text in witness_texts(Expression(rule.regex).tree)[:_TEXTS]:
        for form in _FORMS if rule.is_http else _FORMS[:1]:
            yield form % text + b"\r\n" + token


def _ends(settings: Settings) -> tuple[Address, Address]:
    if settings.networks_include:
        network = settings.networks_include[0]
        return network[0], network[-1]
    return ip_address("192.0.2.1"), ip_address("198.51.100.1")
