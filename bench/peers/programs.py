"""The programs that are compared, with their commands and files. Runs in ``python -m bench.peers``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sensor.bench.traffic.notable import ATTACKS

STRINGS = [what.notable.text.decode() for what in ATTACKS]
NOT_MEASURED = ("lyprobe",)
"""Programs without a package to install."""

_SURICATA = """%YAML 1.1
---
af-packet: [{{interface: {interface}, cluster-id: 99, cluster-type: cluster_flow}}]
outputs: [{{pcap-log: {{enabled: yes, filename: kept.pcap, conditional: alerts}}}}]
"""


@dataclass(frozen=True)
class Peer:
    """A program that is compared."""

    binary: str
    command: Callable[[str, Path], list[str]]
    """Returns the command for an interface and an empty directory to write to."""
    ready: str
    """Text the program prints once it captures."""
    kept: str
    """Pattern for the names of the capture files it writes."""
    keeps_all: bool = False
    """True if it keeps every frame, not only those that hold a string."""


def _ngrep(interface: str, directory: Path) -> list[str]:
    strings = "|".join(re.escape(string).replace("/", "\\x2f") for string in STRINGS)
    return ["ngrep", "-q", "-l", "-d", interface, "-O", str(directory / "kept.pcap"), strings]


def _sensor(interface: str, directory: Path) -> list[str]:
    rules = {
        str(number): {"type": "string", "name": ascii(string), "protocol": "tcp", "regex": re.escape(string)}
        for number, string in enumerate(STRINGS, 1)
    }
    (directory / "rules").mkdir()
    (directory / "rules" / "threat.json").write_text(json.dumps({"threat": {"rules": rules}}))
    flags = ("--rules", str(directory / "rules"), "--evidence", str(directory), "--suppress-above", "0")
    return [sys.executable, "-m", "sensor", "run", "-i", interface, *flags, "--action", "drop", "--no-api"]


def _suricata(interface: str, directory: Path) -> list[str]:
    (directory / "suricata.yaml").write_text(_SURICATA.format(interface=interface))
    rules = [
        f'alert tcp any any -> any any (msg:"{number}"; content:"|{_octets(string)}|"; sid:{number};)'
        for number, string in enumerate(STRINGS, 1)
    ]
    (directory / "strings.rules").write_text("\n".join(rules) + "\n")
    files = ("-c", str(directory / "suricata.yaml"), "-S", str(directory / "strings.rules"))
    return ["suricata", "--af-packet", *files, "-l", str(directory), "-k", "none"]


def _octets(string: str) -> str:
    return string.encode().hex(" ")


PEERS = (
    Peer("sensor", _sensor, "capturing on", "*/*.pcap"),
    Peer(
        "tcpdump", lambda interface, to: ["tcpdump", "-n", "-i", interface, "-w", str(to / "kept.pcap")],
        "listening on", "kept.pcap", keeps_all=True,
    ),
    Peer(
        "dumpcap", lambda interface, to: ["dumpcap", "-i", interface, "-P", "-w", str(to / "kept.pcap")],
        "File:", "kept.pcap", keeps_all=True,
    ),
    Peer("ngrep", _ngrep, "interface:", "kept.pcap"),
    Peer("suricata", _suricata, "Engine started", "kept.pcap*"),
)  # fmt: skip
