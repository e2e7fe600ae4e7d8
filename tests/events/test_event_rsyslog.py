"""Debian's rsyslog accepts events over UDP, TCP and TLS, and parses their JSON."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from event_receivers import Authority, udp
from event_samples import chunk, sending
from processes import wait_until

pytestmark = pytest.mark.skipif(
    not shutil.which("rsyslogd") or not shutil.which("openssl"), reason="rsyslog or openssl is not installed"
)

CONFIGURATION = """
global(workDirectory="{directory}")
module(load="imudp")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="{mode}" streamDriver.authMode="anon")
module(load="mmjsonparse")
global(defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{cert}"
       defaultNetstreamDriverKeyFile="{key}")
input(type="imudp" address="127.0.0.1" port="{udp_port}")
input(type="imtcp" address="127.0.0.1" port="0" listenPortFileName="{directory}/port")
template(name="seen" type="list") {{
    property(name="timereported" dateFormat="rfc3339") constant(value=" ")
    property(name="syslogfacility-text") constant(value=".") property(name="syslogseverity-text")
    constant(value=" ") property(name="app-name") constant(value=" ") property(name="msgid")
    constant(value=" ") property(name="$!event_type") constant(value=" ")
    property(name="$!src_ip") constant(value=":") property(name="$!src_port") constant(value=" ")
    property(name="$!alert!signature_id") constant(value=" ") property(name="$!alert!signature")
    constant(value=" ") property(name="$!sensor!offset") constant(value="\\n")
}}
action(type="mmjsonparse" cookie="")
if $parsesuccess == "OK" then action(type="omfile" file="{directory}/seen" template="seen")
"""


@contextmanager
def rsyslog(directory: Path, authority: Authority, *, tls: bool) -> Iterator[tuple[int, int]]:
    """Run rsyslog; yield its UDP port and its TCP port (plain or TLS)."""
    cert, key = authority.issue("server", "IP:127.0.0.1")
    with udp() as unused:
        udp_port = unused.getsockname()[1]
    configuration = directory / "rsyslog.conf"
    values = {"directory": directory, "ca": authority.ca, "cert": cert, "key": key, "mode": int(tls)}
    configuration.write_text(CONFIGURATION.format(udp_port=udp_port, **values))
    command = ["rsyslogd", "-n", "-f", str(configuration), "-i", str(directory / "pid")]
    with subprocess.Popen(command) as process:
        try:
            port = directory / "port"
            wait_until(lambda: port.exists() and port.read_text().strip() != "")
            yield udp_port, int(port.read_text())
        finally:
            process.terminate()


@pytest.mark.parametrize("scheme", ["syslog+udp", "syslog+tcp", "syslog+tls"])
def test_rsyslog_parses_every_event(tmp_path: Path, scheme: str) -> None:
    """The parsers of rsyslog read the header and the JSON of every event."""
    authority = Authority(tmp_path / "tls")
    with rsyslog(tmp_path, authority, tls=scheme == "syslog+tls") as (udp_port, tcp_port):
        url = {
            "syslog+udp": f"syslog+udp://127.0.0.1:{udp_port}",
            "syslog+tcp": f"syslog+tcp://127.0.0.1:{tcp_port}",
            "syslog+tls": f"syslog+tls://127.0.0.1:{tcp_port}?ca={authority.ca}",
        }[scheme]
        evidence = chunk(1, 50)
        with sending(url) as sender:
            sender.offer([evidence])
        assert (sender.states()[0].sent, sender.states()[0].lost) == (50, 0)
        seen = tmp_path / "seen"
        wait_until(lambda: seen.exists() and seen.read_text().count("\n") == 50)
    expected = [
        f"2023-06-18T12:00:00.{number:06d}Z local5.warning sensor alert alert"
        f" 10.0.0.1:{number} 51001 SQL union select {offset}"
        for number, offset in enumerate(evidence.offsets()[:-1], 1)
    ]
    found = seen.read_text().splitlines()
    assert [line.replace("+00:00 ", "Z ", 1) for line in found] == expected
