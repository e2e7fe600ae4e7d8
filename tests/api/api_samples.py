"""Evidence and a running `sensor serve` for the tests of the API."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import pytest
from processes import wait_until

from sensor.evidence.block import block_of_objects
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.model import Evidence, FiveTuple, LinkType, Match, Rule
from tests.frames import IPV4, TCP, ethernet, ipv4, tcp

DEVID = 3
NOON_US = 1_687_089_600_000_000
"""2023-06-18 12:00:00 UTC."""
EXAMPLE = Path(__file__).parents[3] / "shared" / "reference" / "evidence_example.json"
RULE = Rule(50001, "threat", "web", "SQL injection", "GET", version="2")
OTHER_RULE = Rule(10002, "service", "http", "Apache", "get")
CLIENT, HOST = "192.0.2.10", "198.51.100.20"
SEGMENT_START = 54


def example() -> dict[str, Any]:
    """Return the request and the response that the lookup must reproduce; skip without the file."""
    if not EXAMPLE.exists():
        pytest.skip("no reference data beside the repository")
    return dict(json.loads(EXAMPLE.read_text()))


def example_item() -> Evidence:
    """Return the packet of the example as the sensor stores it."""
    [packet] = example()["response"]
    frame = bytes.fromhex(packet["packet"])
    source, destination = ip_address(packet["sip"]).packed, ip_address(packet["dip"]).packed
    return Evidence(
        frame=frame,
        timestamp_ns=(packet["time_sec"] * 1_000_000 + packet["time_usec"]) * 1000 + 999,
        wirelen=packet["pktlen"],
        linktype=LinkType.ETHERNET,
        interface=2,
        five_tuple=FiveTuple(6, source, packet["sport"], destination, packet["dport"]),
        vlan=(),
        payload_start=66,
        payload_end=len(frame),
        matches=(Match(RULE, 4, 12, "2"),),
    )


def evidence_item(
    number: int, time_us: int | None = None, *, reply: bool = False, payload: bytes = b""
) -> Evidence:
    """Return a TCP packet of flow ``number``; each flow starts one second after the one before."""
    payload = payload or f"GET /{number} HTTP/1.1\r\nHost: example.org\r\n\r\n".encode()
    ends = [(ip_address(CLIENT).packed, 40000 + number), (ip_address(HOST).packed, 80)]
    (source, sport), (destination, dport) = reversed(ends) if reply else ends
    addresses = {"source": HOST, "destination": CLIENT} if reply else {"source": CLIENT, "destination": HOST}
    frame = ethernet(IPV4, ipv4(TCP, tcp(payload, sport=sport, dport=dport), **addresses))
    rules = (RULE, OTHER_RULE) if number % 2 else (OTHER_RULE,)
    return Evidence(
        frame=frame,
        timestamp_ns=(NOON_US + number * 1_000_000 if time_us is None else time_us) * 1000,
        wirelen=len(frame) + 100,
        linktype=LinkType.ETHERNET,
        interface=1,
        five_tuple=FiveTuple(6, source, sport, destination, dport),
        vlan=(),
        payload_start=SEGMENT_START,
        payload_end=len(frame),
        matches=tuple(Match(rule, 0, 3) for rule in rules),
    )


ITEMS = [evidence_item(number) for number in range(40)]
REPLY = evidence_item(
    7, ITEMS[7].timestamp_ns // 1000 + 500, reply=True, payload=b"HTTP/1.1 200 OK\r\n\r\n<p>Found</p>"
)
"""Forty packets of different flows, and a reply to one of them."""


def keep(directory: Path, items: Sequence[Evidence], devid: int = DEVID) -> Path:
    """Write and index evidence; return the evidence directory."""
    with closing(IndexedWriter(directory, devid)) as writer:
        writer.write(block_of_objects(items))
    return directory


@contextmanager
def open_directory() -> Iterator[Path]:
    """Yield a temporary directory that any user may enter; those of pytest admit only root."""
    with TemporaryDirectory(prefix="sensor-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


class Server(NamedTuple):
    """A running `sensor serve`."""

    client: httpx.Client
    process: subprocess.Popen[str]
    log: Path

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET request."""
        return self.client.get(path, **options)

    def audit(self) -> list[dict[str, Any]]:
        """Return the audit lines in the log; they are complete once the server has ended."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line[line.index("{") :]) for line in lines if " INFO {" in line]


@contextmanager
def serving(
    evidence: Path,
    *flags: str | Path,
    listen: str = "127.0.0.1:0",
    verify: ssl.SSLContext | bool = True,
    log: Path | None = None,
    before: Sequence[str] = (),
) -> Iterator[Server]:
    """Run `sensor serve` on a free port; at the end, stop it with SIGTERM and check that it succeeds.

    ``before`` is a command that starts another one, such as setpriv(1).
    """
    log = log or evidence.with_name(f"{evidence.name}.log")
    command = [
        *before,
        sys.executable,
        "-m",
        "sensor",
        "serve",
        "--evidence",
        evidence,
        "--listen",
        listen,
        *flags,
    ]
    with log.open("w") as output:
        process = subprocess.Popen(command, stderr=output, text=True, env=environment())
    try:
        base_url = _wait_for_address(process, log)
        with httpx.Client(base_url=base_url, verify=verify, timeout=20, trust_env=False) as client:
            yield Server(client, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def environment() -> dict[str, str]:
    """Return an environment in which a sensor imports what the tests import and loads few rules."""
    rules = Path(__file__).parents[1] / "corpus" / "faulty" / "two-rules-of-three"
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "SENSOR_RULES": str(rules),
        "SENSOR_LENIENT": "1",
    }


def addresses(log: Path) -> list[str]:
    """Return the addresses of the servers that wrote this log, oldest first."""
    return re.findall(r"evidence at (\S+)/\n", log.read_text())


def _wait_for_address(process: subprocess.Popen[str], log: Path) -> str:
    wait_until(lambda: addresses(log) or process.poll() is not None)
    assert addresses(log), log.read_text()
    return addresses(log)[0]
