"""Settings: a TOML file, ``SENSOR_*`` variables, flags; one pydantic model; read once by each command.

A later source wins: defaults, then the file, then the environment, then flags. The file is that of
``--config``, or else the one that the variable ``SENSOR_CONFIG`` names.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from sensor.errors import SettingsError

_PACKAGE = Path(__file__).parent.parent
OWN_RULES = (
    _PACKAGE / "_fp-pattern" if (_PACKAGE / "_fp-pattern").is_dir() else _PACKAGE.parent / "fp-pattern"
)

Keep = Literal["threat", "any", "flow"]
ProfileName = Literal["default", "ly_probe", "thorough"]


def _split_commas(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _network(value: object) -> IPv4Network | IPv6Network:
    return ip_network(str(value))  # its errors name what is wrong; those of pydantic's types do not


Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]


class Settings(BaseModel):
    """Everything that can be set; names are those of the flags and of the file's keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    interface: Annotated[
        tuple[str, ...], BeforeValidator(_split_commas), Field(examples=[["eth1", "eth2"]])
    ] = ()
    """Interfaces to capture on."""
    rules: Annotated[Path, Field(examples=["/etc/sensor/rules"])] = OWN_RULES
    """Directory of the rule files."""
    lenient: bool = False
    """Skip faulty rules, as ly_probe does, and say which, instead of refusing the whole set."""
    evidence: Path = Path("/data/cap")
    """Directory of the evidence files; each device number has a directory of its own in it."""
    devid: Annotated[int, Field(ge=0)] = 3
    """Device number, part of the path of the evidence."""
    local_time: bool = False
    """Name evidence files in local time, as ly_probe does, instead of UTC."""
    keep: Keep = "any"
    """Keep packets that hit a threat rule, any rule, or the first packet of each side of a flow."""
    profile: ProfileName = "default"
    """How far into a flow, and what of it, is matched."""
    suppress_above: Annotated[int, Field(ge=0)] = 1000
    """Pieces of evidence a rule, flow and second that are kept, the rest is counted as suppressed; 0: all."""
    retain_days: Annotated[int | None, Field(ge=1, examples=[30])] = None
    """Days that evidence is kept; unlimited where it is not set."""
    retain_gib: Annotated[float | None, Field(gt=0, examples=[500.0])] = None
    """GiB of evidence that are kept, the index included; unlimited where it is not set."""
    retain_free_percent: Annotated[float, Field(ge=0, le=90)] = 5.0
    """Percent of the disk that stay free: the oldest evidence is deleted for that; 0: nothing is."""
    mode: Literal["native", "generic"] = "native"
    """XDP in the driver, or in the kernel's generic path."""
    action: Literal["pass", "drop"] = "pass"
    """What becomes of a frame after it was looked at; drop is for a mirror port only."""
    workers: Annotated[int | None, Field(ge=1, le=1024, examples=[4])] = None
    """Processes that read and match; one for each CPU that a receive queue can run on, unless given."""
    flows: Annotated[int, Field(ge=1024, le=1 << 26)] = 1 << 20
    """Flows that the kernel remembers."""
    networks_include: Annotated[
        tuple[Network, ...], BeforeValidator(_split_commas), Field(examples=[["10.0.0.0/8", "fd00::/8"]])
    ] = ()
    """Only packets from or to these networks are matched; the longest prefix of an address counts."""
    networks_exclude: Annotated[
        tuple[Network, ...], BeforeValidator(_split_commas), Field(examples=[["10.99.0.0/16"]])
    ] = ()
    """Packets from or to these networks are not matched."""
    ring_mib: Annotated[int, Field(ge=1, le=1024)] = 64
    """Size of the perf ring of each CPU in MiB, a power of two."""
    snaplen: Annotated[int, Field(ge=128, le=65535)] = 65535
    """Most bytes kept of a frame."""
    metrics: str = "127.0.0.1:9321"
    """Address and port of the metrics; empty: they are not served."""
    events: Annotated[
        tuple[str, ...], BeforeValidator(_split_commas), Field(examples=[["file:/var/log/sensor/eve.json"]])
    ] = ()
    """Receivers of an event for each match: file:, unix:, syslog+udp:, syslog+tcp:, syslog+tls:."""
    events_payload: Annotated[int, Field(ge=0, le=16384)] = 0
    """Most bytes of the payload in an event."""
    events_url: Annotated[str | None, Field(examples=["https://sensor.example"])] = None
    """Where the evidence API is seen from outside: events then say where their evidence is."""
    events_queue_mib: Annotated[int, Field(ge=1, le=65536)] = 64
    """MiB of events that wait for a receiver; more are lost, and counted."""
    duration: Annotated[float | None, Field(gt=0, examples=[3600.0])] = None
    """Stop after so many seconds."""
    api: bool = True
    """``sensor run`` serves the evidence too, from a process of its own."""
    listen: str = "127.0.0.1:8321"
    """Address and port of the API; one that is not loopback demands tokens or client certificates."""
    api_user: str = "nobody"
    """Whom the API runs as where it is started by root."""
    token_required: bool = False
    """Demand a token on loopback too: for hosts with other users, and behind a proxy."""
    tls_cert: Annotated[Path | None, Field(examples=["/etc/sensor/tls/cert.pem"])] = None
    """Certificate of the API, with its chain (PEM)."""
    tls_key: Annotated[Path | None, Field(examples=["/etc/sensor/tls/key.pem"])] = None
    """Private key of that certificate (PEM)."""
    tls_client_ca: Annotated[Path | None, Field(examples=["/etc/sensor/tls/clients.pem"])] = None
    """Whoever has a certificate of this authority (PEM) needs no token; nobody else is let in."""
    audit: Annotated[Path | None, Field(examples=["/var/log/sensor/audit.jsonl"])] = None
    """File of the JSON lines that say who looked at which evidence; without it they go to the log."""
    export_mib: Annotated[int, Field(ge=1)] = 1024
    """Most MiB of one download."""
    request_rate: Annotated[int, Field(ge=0)] = 100
    """Requests a second and client that the API answers; 0: any number."""

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
            is_port = int(port) in range(65536)
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


class Given(NamedTuple):
    """A value as a source gives it."""

    value: Any
    source: str
    """``file /etc/sensor/sensor.toml``, ``variable SENSOR_KEEP``, or empty for a flag."""


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Merge all sources; flags that are None were not given.

    Raises:
        SettingsError: The file cannot be read, a name is unknown or a value is out of range.
    """
    given = read_given(config)
    given |= {name: Given(value, "") for name, value in flags.items() if value is not None}
    settings, faults = validate(given)
    if faults:
        raise SettingsError("; ".join(faults))
    return settings


def read_given(config: Path | None) -> dict[str, Given]:
    """Return what is set by file and environment, by name; what is wrong with it is not looked at.

    Raises:
        SettingsError: The file cannot be read, or is no TOML.
    """
    named = os.environ.get("SENSOR_CONFIG")
    path = config or (Path(named) if named else None)
    given = {name: Given(value, f"file {path}") for name, value in _read_file(path).items()} if path else {}
    return given | {
        name: Given(value, f"variable {variable_of(name)}")
        for name, value in _read_environment(os.environ).items()
    }


def validate(given: Mapping[str, Given]) -> tuple[Settings, list[str]]:
    """Return the settings, and every fault in a line; what is faulty has its default."""
    try:
        return Settings(**{name: one.value for name, one in given.items()}), []
    except ValidationError as error:
        faults = error.errors()
    faulty = {fault["loc"][0] for fault in faults}
    fine = {name: one.value for name, one in given.items() if name not in faulty}
    return Settings(**fine), [_explain(fault, given) for fault in faults]


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"SENSOR_{name.upper()}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return which of these somebody most likely meant; None: hardly any."""
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return _flat(tomllib.load(file))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a TOML file: {error}") from error


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Read ``[networks] include`` as ``networks_include``, and dashes as underscores."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = prefix + key.replace("-", "_")
        flat |= _flat(value, f"{name}_") if isinstance(value, dict) else {name: value}
    return flat


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    variables = {name: variable_of(name) for name in Settings.model_fields}
    return {name: environment[variable] for name, variable in variables.items() if variable in environment}


def _explain(fault: Any, given: Mapping[str, Given]) -> str:
    name = str(fault["loc"][0])
    source = f", from {given[name].source}" if given[name].source else ""
    if fault["type"] == "extra_forbidden":
        meant = nearest(name, Settings.model_fields)
        return f"{name}: there is no such setting{f'; is it {meant}?' if meant else ''}{source}"
    return f"{name}: {fault['msg'].removeprefix('Value error, ')} (is {fault['input']!r}){source}"
