"""The way of one marked packet through a running sensor. Runs in ``sensor selftest``, beside that sensor.

Each stage is looked at where its users look: the metrics, the files, the index and the API.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from pathlib import Path

from sensor.capture.interface import Interface, find_interface
from sensor.config.settings import Settings
from sensor.errors import EvidenceError, InterfaceError, SensorError
from sensor.evidence.query import Query
from sensor.evidence.search import EvidenceSearch
from sensor.evidence.stored import Stored
from sensor.metrics import catalogue as c
from sensor.metrics.figures import Figures, ask
from sensor.metrics.metric import Metric
from sensor.rules.files.load import load_rules
from sensor.rules.files.rule_set import RuleSet
from sensor.selftest.marked_packet import MarkedPacket, marked_packet
from sensor.selftest.sending import loop, send
from sensor.selftest.stage import SelftestStage, StageFailure, StageResult, results

POLL_S = 0.1
_MARGIN_US = 600_000_000
"""The clock may be stepped meanwhile; the token finds the packet."""
_TAIL_BYTES = 64 << 20
"""How much of the end of an evidence file is searched for the token."""


@dataclass(frozen=True)
class Journey:
    """One test of one port."""

    settings: Settings
    """Those of the running sensor."""
    port: str
    source: str | None
    """Port that the packet is sent from; None: it is put into the program attached to ``port``."""
    token: str | None
    """Token for the API, if it wants one."""
    patience_s: float
    """Time for the packet to become evidence."""

    def run(self) -> list[StageResult]:
        """Send the packet, and look for it at each stage until one is not reached.

        Raises:
            RulesError: The rules of the settings cannot be loaded.
            PrivilegeError: This process may not send.
        """
        passed: dict[SelftestStage, str] = {}
        try:
            not_served = self._follow(passed)
        except StageFailure as failure:
            return results(passed, failure)
        return results(passed, None, not_served)

    def _follow(self, passed: dict[SelftestStage, str]) -> str:
        """Note the stages that are reached; return why the API was not asked, if it was not."""
        rules = load_rules(self.settings.rules, lenient=self.settings.lenient)
        port, before = self._capturing()
        passed[SelftestStage.CAPTURING] = f"{self.port}, {len(before.by('cpu', c.RING_FILL))} rings"
        packet = marked_packet(rules, self.settings)
        if packet is None:
            raise StageFailure(
                SelftestStage.MATCHED,
                f"no packet is known that a rule in {self.settings.rules} matches; add a rule",
            )
        self._send(port, packet, before)
        stored = self._wait_for(lambda: self._find(packet))
        if stored is None:
            raise self._failure(passed, rules, packet, before)
        rule = packet.rule
        passed[SelftestStage.SEEN] = f"{packet.source}:{packet.sport} to {packet.destination}:{packet.dport}"
        passed[SelftestStage.MATCHED] = f"{rule.rule_class} rule {rule.rule_id}, {rule.name}"
        passed[SelftestStage.WRITTEN] = str(stored.path)
        passed[SelftestStage.INDEXED] = stored.key
        return self._serve(passed, stored)

    def _capturing(self) -> tuple[Interface, Figures]:
        """Return the port and the sensor's figures, if that sensor captures on the port."""
        try:
            port, figures = find_interface(self.port), ask(self.settings.metrics)
        except SensorError as error:
            raise StageFailure(SelftestStage.CAPTURING, str(error)) from error
        if not port.has_carrier:
            fault = f"{self.port} has no carrier; ip link set {self.port} up, and check the cable"
        elif figures.state != "capturing":
            fault = f"the sensor is {figures.state}; try again when it captures"
        elif self.port not in figures.by("interface", c.SEEN):
            fault = (
                f"the sensor at {self.settings.metrics} does not capture on {self.port}; name its --metrics"
            )
        elif port.xdp_program_id is None:
            fault = f"{self.port} has no XDP program attached; restart the sensor"
        else:
            return port, figures
        raise StageFailure(SelftestStage.CAPTURING, fault)

    def _send(self, port: Interface, packet: MarkedPacket, before: Figures) -> None:
        try:
            if self.source:
                send(self.source, packet.frame())
            else:
                loop(port, packet.frame(), int(min(before.by("cpu", c.RING_FILL), key=int)))
        except InterfaceError as error:
            raise StageFailure(SelftestStage.SEEN, str(error)) from error

    def _wait_for(self, find: Callable[[], Stored | None]) -> Stored | None:
        deadline_s = time.monotonic() + self.patience_s
        while (found := find()) is None and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        return found

    def _find(self, packet: MarkedPacket) -> Stored | None:
        """Return the packet as the index knows it, if its record is in the file too."""
        query = Query(
            since_us=time.time_ns() // 1000 - _MARGIN_US,
            devid=self.settings.devid,
            network=ip_network(packet.source),
            port=packet.sport,
            text=packet.token,
        )
        try:
            return next(EvidenceSearch(self.settings.evidence).iterate(query), None)
        except EvidenceError:
            return None  # there is no index yet

    def _failure(
        self, passed: dict[SelftestStage, str], rules: RuleSet, packet: MarkedPacket, before: Figures
    ) -> StageFailure:
        """Return where a packet stopped that is not in the index, and what is known about it."""
        now = ask(self.settings.metrics)

        def grown(metric: Metric, **labels: str) -> float:
            return (now.total(metric, **labels) or 0) - (before.total(metric, **labels) or 0)

        if not grown(c.SEEN, interface=self.port):
            return StageFailure(
                SelftestStage.SEEN, f"{self.port} has received nothing; is {self.source} connected to it?"
            )
        passed[SelftestStage.SEEN] = f"{grown(c.SEEN, interface=self.port):.0f} frames on {self.port}"
        if path := self._file_with(packet.token):
            passed[SelftestStage.MATCHED] = passed[SelftestStage.WRITTEN] = str(path)
            waiting = now.total(c.INDEX_WAITING)
            return StageFailure(
                SelftestStage.INDEXED,
                f"in the file, but not in the index ({waiting} rows wait); see the sensor's log",
            )
        if grown(c.EVIDENCE, outcome="write_failed"):
            return StageFailure(
                SelftestStage.WRITTEN, "writing evidence fails; see the sensor's log, and check the disk"
            )
        if grown(c.EVIDENCE, outcome="suppressed"):
            return StageFailure(
                SelftestStage.WRITTEN, "suppressed, as too many match the rule; see suppress_above"
            )
        if grown(c.EVIDENCE, outcome="written"):
            return StageFailure(
                SelftestStage.WRITTEN,
                f"not found in {self.settings.evidence}/{self.settings.devid}; name --evidence",
            )
        digest = next(iter(now.by("digest", c.RULES_INFO)), "")
        if digest != rules.digest:
            return StageFailure(
                SelftestStage.MATCHED,
                f"the sensor has other rules in force than {self.settings.rules}; reload them",
            )
        ends = {name: grown(c.IGNORED, reason=name) for name in c.REASONS} | {
            "a full ring": grown(c.LOST), "undecodable": grown(c.UNDECODABLE), "no rule": grown(c.UNMATCHED),
            "an overload": grown(c.SAMPLED), "waiting in a ring": now.total(c.IN_RING) or 0,
        }  # fmt: skip
        where = ", ".join(f"{name} {frames:.0f}" for name, frames in ends.items() if frames > 0)
        return StageFailure(
            SelftestStage.MATCHED, f"no rule has matched; frames that ended elsewhere: {where or 'none'}"
        )

    def _file_with(self, token: bytes) -> Path | None:
        directory = self.settings.evidence / str(self.settings.devid)
        for path in sorted(directory.glob("*.pcap*"), reverse=True)[:3]:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
                if token in file.read(_TAIL_BYTES):
                    return path
        return None

    def _serve(self, passed: dict[SelftestStage, str], stored: Stored) -> str:
        """Ask the API for the packet; return why that says nothing, if it does not."""
        listen = self.settings.listen
        if not self.settings.api:
            return "there is none in the settings"
        deadline_s = time.monotonic() + self.patience_s
        while True:
            try:
                status = _get(self.settings, f"/api/v1/evidence/{stored.key}", self.token)
                fault = f"the API at {listen} answers {status}; see its log"
            except (OSError, http.client.HTTPException) as error:
                status, fault = 0, f"the API at {listen} does not answer: {error}; see its log"
            if status == HTTPStatus.OK:
                passed[SelftestStage.SERVED] = listen
                return ""
            if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and not self.token:
                return f"the API at {listen} wants a token: --token-file FILE"
            if time.monotonic() >= deadline_s:
                raise StageFailure(SelftestStage.SERVED, fault)
            time.sleep(POLL_S)


def _get(settings: Settings, path: str, token: str | None) -> int:
    """Return the status of a request to the API of this host."""
    host = ip_address(settings.listen_host)
    if host.is_unspecified:
        host = ip_address("::1" if host.version == 6 else "127.0.0.1")
    connection: http.client.HTTPConnection
    if settings.tls_cert:
        context = ssl.create_default_context()
        context.check_hostname = False  # it is this host's address, not its name
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(str(host), settings.listen_port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection(str(host), settings.listen_port, timeout=5)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        return connection.getresponse().status
    finally:
        connection.close()
