"""Evidence for the tests of the page: an hour of traffic with attacks, and a response full of markup."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from playwright.sync_api import Page

from sensor.bench.traffic import frames, mix, notable, ordinary
from sensor.bench.traffic.frames import ACK, PSH, Frame, Host
from sensor.protocols import TCP

START_US = 1_767_607_200_000_000
"""2026-01-05 10:00 UTC."""
HOUR_US = 3_600_000_000
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
HOSTILE_RULE = {
    "type": HOSTILE,
    "name": "A banner <b>in</b> HTML",
    "protocol": "tcp",
    "regex": "Server: (<[^\\r\\n]+)",
    "vendor": "<svg onload=alert(1)>",
}


def write_rules(few: Path, directory: Path) -> None:
    """Write the few rules, and one that matches the hostile response."""
    directory.mkdir()
    for file in few.glob("*.json"):
        content = json.loads(file.read_text())
        if file.stem == "threat":
            content["threat"]["rules"]["59999"] = HOSTILE_RULE
        (directory / file.name).write_text(json.dumps(content))


def hour(seed: int = 1) -> list[Frame]:
    """Return an hour of traffic with every attack and banner, DNS, and the hostile response."""
    builders = [partial(notable.exchange, what=what) for what in notable.ATTACKS + notable.BANNERS]
    traffic = mix.mix(Random(seed), [*builders, *[ordinary.dns] * 120], START_US, HOUR_US)
    return sorted([*traffic.frames, hostile_answer(START_US + HOUR_US // 2)])


def hostile_answer(time_us: int) -> Frame:
    """Return an HTTP response full of markup."""
    text = f"HTTP/1.1 200 OK\r\nServer: {HOSTILE}\r\nX-<i>Name</i>: <i>value</i>\r\n\r\n"
    return Frame(time_us, segment(text.encode()))


def segment(payload: bytes) -> bytes:
    """Return a frame from a web server."""
    server = Host(bytes.fromhex("02005e000001"), ip_address("203.0.113.7"))
    client = Host(bytes.fromhex("020010000001"), ip_address("192.0.2.10"))
    body = frames.tcp(
        server.address, 80, client.address, 40000, seq=1, ack=1, flags=PSH | ACK, payload=payload
    )
    [packet] = frames.packets(server, client, TCP, body, identification=1)
    return frames.ethernet(server.mac, client.mac, frames.ETHERTYPE_IPV4, packet)


def copy_evidence(kept: Kept, directory: Path) -> None:
    """Copy evidence with its group, through which the API reads it."""
    subprocess.run(["cp", "--archive", str(kept.directory), str(directory)], check=True)


def keep(
    capture: Iterable[Frame], directory: Path, rules: Path, *, context: str = "off"
) -> list[dict[str, Any]]:
    """Run `sensor read` over frames, store evidence in ``directory``, and return its matches."""
    file = directory.parent / f"{directory.name}.pcap"
    frames.write_capture(file, capture)
    command = [sys.executable, "-m", "sensor", "read", file, "--rules", rules, "--evidence", directory]
    command += ["--context", context]
    done = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


class Kept(NamedTuple):
    """An evidence directory, its rules, and the matches that `sensor read` printed."""

    directory: Path
    rules: Path
    matches: list[dict[str, Any]]

    @property
    def times_us(self) -> list[int]:
        """Times of the evidence, newest first."""
        return sorted({match["time_us"] for match in self.matches}, reverse=True)


@contextmanager
def serving(evidence: Path, rules: Path, *options: str) -> Iterator[str]:
    """Run `sensor serve` on a free port and yield its address; the evidence must be readable by all."""
    log = evidence.with_name(f"{evidence.name}.log")
    command = [sys.executable, "-m", "sensor", "serve", "--evidence", evidence, "--rules", rules]
    command += ["--listen", "127.0.0.1:0", *options]
    with log.open("w") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            while not (address := re.search(r"evidence at (http://\S+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield address[1]
        finally:
            process.terminate()


Visit = Callable[..., Page]


def settled(page: Page) -> None:
    """Wait until the page shows the results."""
    page.wait_for_function(
        "() => (document.querySelector('#rows tr, #state > *') || document.querySelector('dialog[open]'))"
        " && !document.querySelector('section[aria-busy=true]')"
    )
