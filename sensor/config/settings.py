"""The settings: one model that defines each setting once, for every command and every document.

A field holds the name, type, limits and default; its docstring is the help text; its `Flag` says which
commands have it as a flag. The flags of the commands, ``sensor config init``, ``docs/settings.md`` and the
options of the Ansible role are made from this. `sensor.config.loading` reads the values.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from sensor.config.flag import Flag, Meaning
from sensor.model import Context

_PACKAGE = Path(__file__).parent.parent
BUNDLED_RULES = (
    _PACKAGE / "_fp-pattern" if (_PACKAGE / "_fp-pattern").is_dir() else _PACKAGE.parent / "fp-pattern"
)

Keep = Literal["threat", "any", "flow"]
ProfileName = Literal["default", "ly_probe", "thorough"]

_CAPTURE = ("run", "doctor")
_MATCH = (*_CAPTURE, "read")
_TRIALS = ("rules explain", "rules plan", "rules stats", "rules test")
_EVIDENCE = (*_MATCH, "serve", "evidence", "token", "rules reload", "selftest")
_LOAD_RULES = (*_MATCH, "serve", "evidence reindex", "selftest")
_BENCH = ("bench kernel", "bench match", "bench ring")


def _split_commas(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _network(value: object) -> IPv4Network | IPv6Network:
    return ip_network(str(value))  # its errors name what is wrong; those of pydantic's types do not


def _is_unusable(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


_COMMAS = BeforeValidator(_split_commas)
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]


class Settings(BaseModel):
    """Every setting; names are those of the flags and of the keys in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    interface: Annotated[
        tuple[str, ...],
        _COMMAS,
        Flag(commands=("run",), short="-i", metavar="INTERFACE"),
        Field(examples=[["eth1", "eth2"]]),
    ] = ()
    """Interfaces to capture on; sensor run needs at least one."""
    rules: Annotated[
        Path,
        Flag(
            commands=(*_LOAD_RULES, "rules list", "rules show", *_TRIALS, *_BENCH),
            metavar="DIRECTORY",
            unset="the bundled rules",
        ),
        Field(examples=["/etc/sensor/rules"]),
    ] = BUNDLED_RULES
    """Directory of the rule files."""
    lenient: Annotated[
        bool,
        Flag(
            commands=(*_LOAD_RULES, "rules check"),
            differs={"rules check": Meaning("Exit with 0 if at least one rule file can be used.")},
        ),
    ] = False
    """Skip faulty rules and log them, as ly_probe does, instead of refusing the whole rule set."""
    evidence: Annotated[
        Path,
        Flag(
            commands=_EVIDENCE,
            metavar="DIRECTORY",
            differs={
                "read": Meaning("Keep evidence in this directory.", "no evidence is kept"),
                "rules reload": Meaning("Evidence directory of the running sensor."),
            },
        ),
    ] = Path("/data/cap")
    """Directory of the evidence files; each device number has its own subdirectory."""
    devid: Annotated[
        int,
        Flag(
            commands=(*_MATCH, "evidence reindex", "rules reload", "selftest"),
            metavar="NUMBER",
            differs={"rules reload": Meaning("Device number of the running sensor.")},
        ),
        Field(ge=0),
    ] = 3
    """Device number; it names the subdirectory of the evidence."""
    local_time: Annotated[bool, Flag(commands=_MATCH)] = False
    """Name evidence files in local time, as ly_probe does, instead of UTC."""
    keep: Annotated[Keep, Flag(commands=_MATCH)] = "any"
    """Which packets to keep: those that match a threat rule (threat), those that match any rule (any), or the
    first packet of each direction of a flow, with or without a match (flow)."""
    profile: Annotated[ProfileName, Flag(commands=(*_MATCH, "evidence reindex", "selftest", *_TRIALS))] = (
        "default"
    )
    """How far into a flow packets are matched, and which of their matches count (docs/rules.md)."""
    suppress_above: Annotated[int, Flag(commands=_MATCH, unit="items"), Field(ge=0)] = 1000
    """Evidence kept per rule, flow and second; the rest is counted as suppressed. 0 keeps all."""
    context: Annotated[Context, Flag(commands=_MATCH)] = "threat"
    """Which matches also keep their conversation, the packets of their flow before and after them: those of
    threat rules (threat), those of any rule (any), or none (off). A rule can say otherwise, except if this is
    off (docs/rules.md)."""
    context_packets: Annotated[int, Flag(commands=_MATCH, unit="packets"), Field(ge=1, le=1_000_000)] = 256
    """Packets of a conversation kept after its first match."""
    context_kib: Annotated[int, Flag(commands=_MATCH, unit="KiB"), Field(ge=1, le=1 << 20)] = 256
    """Data of a conversation kept after its first match."""
    context_seconds: Annotated[int, Flag(commands=_MATCH, unit="seconds"), Field(ge=1, le=3600)] = 60
    """How long a conversation is kept after its first match."""
    retain_days: Annotated[
        int | None, Flag(commands=_CAPTURE, unit="days", unset="unlimited"), Field(ge=1, examples=[30])
    ] = None
    """How long evidence is kept."""
    retain_gib: Annotated[
        float | None, Flag(commands=_CAPTURE, unit="GiB", unset="unlimited"), Field(gt=0, examples=[500.0])
    ] = None
    """Disk space for evidence and its index; above it, the oldest evidence is deleted."""
    retain_free_percent: Annotated[float, Flag(commands=_CAPTURE, unit="percent"), Field(ge=0, le=90)] = 5.0
    """Share of the disk and of its inodes to keep free by deleting the oldest evidence. 0 turns this off."""
    retain_threat_days: Annotated[
        int | None,
        Flag(commands=_CAPTURE, unit="days", unset="the same as other evidence"),
        Field(ge=1, examples=[365]),
    ] = None
    """How long evidence with a match of a threat rule is kept."""
    retain_threat_gib: Annotated[
        float | None, Flag(commands=_CAPTURE, unit="GiB", unset="unlimited"), Field(gt=0, examples=[100.0])
    ] = None
    """Disk space for evidence with a match of a threat rule; above it, the oldest of it is deleted."""
    retain_source_percent: Annotated[float, Flag(commands=_CAPTURE, unit="percent"), Field(gt=0, le=100)] = (
        50.0
    )
    """Share of the space that the evidence of one source may take in a day while space is short."""
    retain_rule_percent: Annotated[float, Flag(commands=_CAPTURE, unit="percent"), Field(gt=0, le=100)] = 50.0
    """Share of the space that the evidence of one rule may take in a day while space is short."""
    mode: Annotated[Literal["native", "generic"], Flag(commands=_CAPTURE)] = "native"
    """The place where XDP runs: in the driver (native), or in the kernel's network stack (generic), which is
    slower but works on every interface. sensor never changes the mode by itself."""
    action: Annotated[Literal["pass", "drop"], Flag(commands=_CAPTURE)] = "pass"
    """Pass each frame on to the host's network stack, or drop it. Use drop on mirror ports only."""
    workers: Annotated[
        int | None,
        Flag(commands=_CAPTURE, metavar="NUMBER", unset="one per receive queue, at most one per CPU"),
        Field(ge=1, le=1024, examples=[4]),
    ] = None
    """Number of worker processes, which read frames and match them."""
    flows: Annotated[int, Flag(commands=_CAPTURE, metavar="NUMBER"), Field(ge=1024, le=1 << 26)] = 1 << 20
    """Number of flows the kernel remembers, 104 bytes each."""
    networks_include: Annotated[
        tuple[Network, ...],
        _COMMAS,
        Flag(commands=_MATCH, metavar="NETWORK", unset="all"),
        Field(examples=[["10.0.0.0/8", "fd00::/8"]]),
    ] = ()
    """Match only packets from or to these networks. Of all included and excluded networks, the longest
    matching prefix wins."""
    networks_exclude: Annotated[
        tuple[Network, ...], _COMMAS, Flag(commands=_MATCH, metavar="NETWORK"),
        Field(examples=[["10.99.0.0/16"]]),
    ] = ()  # fmt: skip
    """Do not match packets from or to these networks."""
    ring_mib: Annotated[int, Flag(commands=_CAPTURE, unit="MiB"), Field(ge=1, le=1024)] = 64
    """Size of the perf ring of each CPU; a power of two."""
    history_mib: Annotated[int, Flag(commands=_MATCH, unit="MiB"), Field(ge=0, le=65536)] = 64
    """Memory of the history, per CPU: recent frames, in which the context before a match is found. 0: there
    is none."""
    history_flow_kib: Annotated[int, Flag(commands=_MATCH, unit="KiB"), Field(ge=1, le=1 << 20)] = 20
    """Data of each flow that goes into the history; what follows is not remembered."""
    snaplen: Annotated[int, Flag(commands=_CAPTURE, unit="bytes"), Field(ge=128, le=65535)] = 65535
    """Bytes kept of each frame; longer frames are cut."""
    metrics: Annotated[
        str,
        Flag(
            commands=(*_CAPTURE, "status", "selftest"),
            metavar="ADDRESS:PORT",
            differs={"status": Meaning("Address and port of the running sensor's metrics.")},
        ),
    ] = "127.0.0.1:9321"
    """Address and port to serve metrics on. Empty: metrics are not served."""
    events: Annotated[
        tuple[str, ...],
        _COMMAS,
        Flag(commands=_CAPTURE, metavar="URL"),
        Field(examples=[["file:/var/log/sensor/eve.json"]]),
    ] = ()
    """Receivers that get an event for each match: file:, unix:, syslog+udp:, syslog+tcp: and syslog+tls: URLs
    (docs/events.md)."""
    events_payload: Annotated[int, Flag(commands=_CAPTURE, unit="bytes"), Field(ge=0, le=16384)] = 0
    """Bytes of the payload included in an event, at most 16384."""
    events_url: Annotated[
        str | None, Flag(commands=_CAPTURE, metavar="URL"), Field(examples=["https://sensor.example"])
    ] = None
    """URL of the evidence page as clients reach it; with it, each event links to its evidence."""
    events_queue_mib: Annotated[int, Flag(commands=_CAPTURE, unit="MiB"), Field(ge=1, le=65536)] = 64
    """Size of each receiver's queue. If the receiver is slow or unreachable and the queue is full, events are
    lost and counted."""
    duration: Annotated[
        float | None,
        Flag(commands=("run",), unit="seconds", unset="unlimited"),
        Field(gt=0, examples=[3600.0]),
    ] = None
    """Stop capturing after this time."""
    api: Annotated[bool, Flag(commands=(*_CAPTURE, "selftest"))] = True
    """Serve the evidence API beside sensor run, in a process of its own."""
    listen: Annotated[str, Flag(commands=(*_CAPTURE, "serve", "selftest"), metavar="ADDRESS:PORT")] = (
        "127.0.0.1:8321"
    )
    """Address and port of the API. Any address but loopback requires tokens or client certificates."""
    api_user: Annotated[str, Flag(commands=("serve",), metavar="USER")] = "nobody"
    """User the API switches to when it is started as root. It can read what the group of the evidence
    directory can read."""
    token_required: Annotated[bool, Flag(commands=("serve",))] = False
    """Require a token on loopback too, for hosts with other users."""
    api_hosts: Annotated[
        tuple[str, ...],
        _COMMAS,
        Flag(commands=("serve",), metavar="NAME", unset="loopback names, on other addresses any"),
        Field(examples=[["sensor.example"]]),
    ] = ()
    """Host names the API answers to besides its loopback names, such as that of a reverse proxy. Requires
    tokens or client certificates."""
    api_proxies: Annotated[
        tuple[Network, ...],
        _COMMAS,
        Flag(commands=("serve",), metavar="NETWORK"),
        Field(examples=[["127.0.0.1/32"]]),
    ] = ()
    """Reverse proxies whose X-Forwarded-For names the client. Requires tokens or client certificates."""
    tls_cert: Annotated[
        Path | None, Flag(commands=("serve",), metavar="FILE"), Field(examples=["/etc/sensor/tls/cert.pem"])
    ] = None
    """Certificate of the API, with its chain (PEM)."""
    tls_key: Annotated[
        Path | None, Flag(commands=("serve",), metavar="FILE"), Field(examples=["/etc/sensor/tls/key.pem"])
    ] = None
    """Private key of the certificate (PEM)."""
    tls_client_ca: Annotated[
        Path | None,
        Flag(commands=("serve",), metavar="FILE"),
        Field(examples=["/etc/sensor/tls/clients.pem"]),
    ] = None
    """Certificate authority of the clients (PEM). Clients with a certificate need no token; all others are
    refused."""
    audit: Annotated[
        Path | None,
        Flag(commands=("serve",), metavar="FILE", unset="the log"),
        Field(examples=["/var/log/sensor/audit.jsonl"]),
    ] = None
    """File of the audit log: a JSON line for each access to evidence."""
    hold_socket: Annotated[
        Path | None,
        Flag(commands=("serve",), metavar="SOCKET", unset="a process of the API"),
        Field(examples=["/run/sensor-hold.sock"]),
    ] = None
    """Unix socket of the service that writes holds for an API whose user does not own the evidence."""
    export_mib: Annotated[int, Flag(commands=("serve",), unit="MiB"), Field(ge=1)] = 1024
    """Largest size of one download."""
    export_seconds: Annotated[float, Flag(commands=("serve",), unit="seconds"), Field(gt=0)] = 600.0
    """Longest time of one download; its connection is then closed."""
    query_seconds: Annotated[float, Flag(commands=("serve",), unit="seconds"), Field(gt=0)] = 10.0
    """Longest time of any other query, with its wait for other clients; it is then answered with 503."""
    client_connections: Annotated[int, Flag(commands=("serve",), metavar="NUMBER"), Field(ge=1)] = 32
    """Connections, and queries at a time, of one client: an IPv4 address, or an IPv6 network of 64 bits. A
    further connection closes the oldest idle one."""
    request_rate: Annotated[
        int, Flag(commands=("serve",), unit="requests/s", metavar="NUMBER"), Field(ge=0)
    ] = 100
    """Requests per second that the API answers for each client. 0: unlimited."""

    @field_validator("*")
    @classmethod
    def _printable(cls, value: object) -> object:
        """Refuse text that no log, file name or message to another process can hold."""
        texts = value if isinstance(value, tuple) else [value]
        if any(_is_unusable(str(text)) for text in texts if isinstance(text, str | Path)):
            raise ValueError("must not contain control characters, or bytes that are not UTF-8")
        return value

    @field_validator("*")
    @classmethod
    def _absolute(cls, value: object) -> object:
        """Make paths absolute, because BCC changes the working directory while it compiles in a thread."""
        return value.absolute() if isinstance(value, Path) else value

    @field_validator("ring_mib")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("must be a power of two")
        return value

    @field_validator("listen", "metrics")
    @classmethod
    def _address_and_port(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.field_name == "metrics":
            return value
        host, _, port = value.rpartition(":")
        try:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            is_port = port.isascii() and port.isdecimal() and int(port) in range(65536)
        except ValueError:
            is_port = False
        if not is_port:
            raise ValueError("must be an address and a port, like 127.0.0.1:8321 or [::1]:8321")
        return value

    @property
    def listen_host(self) -> str:
        """The address in ``listen``, without brackets."""
        return self.listen.rpartition(":")[0].removeprefix("[").removesuffix("]")

    @property
    def listen_port(self) -> int:
        """The port in ``listen``; 0: any free one."""
        return int(self.listen.rpartition(":")[2])
