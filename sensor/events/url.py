"""The URLs of the settings: which destination they mean. Runs in the sender; before, in the supervisor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from sensor.errors import SettingsError
from sensor.events.file_receiver import FileReceiver
from sensor.events.receiver import Receiver, StdoutReceiver
from sensor.events.socket_receivers import TcpSyslog, TlsSyslog, UdpSyslog, UnixSocket

STDOUT = "--json"
"""The receiver that is standard output, with objects of our own instead of alerts."""

Options = dict[str, str]


def receiver_of(url: str) -> Receiver:
    """Return what a URL means, closed.

    Raises:
        SettingsError: It means nothing, or something that cannot be used.
    """
    if url == STDOUT:
        return StdoutReceiver()
    try:
        made = _made(urlsplit(url))
        made.check()
    except ValueError as error:
        raise SettingsError(f"events: {url}: {error}") from error
    except OSError as error:
        culprit = f"{error.filename}: " if error.filename else ""
        raise SettingsError(f"events: {url}: {culprit}{error.strerror or error}") from error
    return made


def _made(parts: SplitResult) -> Receiver:
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"has to start with one of {', '.join(f'{scheme}:' for scheme in _SCHEMES)}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    made = _SCHEMES[parts.scheme](parts, options)  # it takes those that it knows
    if options or parts.fragment:
        raise ValueError(f"there is no option {', '.join(options) or parts.fragment}")
    return made


def _file(parts: SplitResult, options: Options) -> Receiver:
    mib, keep = int(options.pop("mib", "100")), int(options.pop("keep", "5"))
    if mib < 0 or keep < 1:
        raise ValueError("mib is 0 (never rotate) or more, keep is 1 or more")
    return FileReceiver(_path(parts), mib << 20, keep)


def _unix(parts: SplitResult, _options: Options) -> Receiver:
    return UnixSocket(_path(parts))


def _udp(parts: SplitResult, _options: Options) -> Receiver:
    return UdpSyslog(*_host_and_port(parts))


def _tcp(parts: SplitResult, _options: Options) -> Receiver:
    return TcpSyslog(*_host_and_port(parts))


def _tls(parts: SplitResult, options: Options) -> Receiver:
    ca, cert, key = (options.pop(name, None) for name in ("ca", "cert", "key"))
    return TlsSyslog(*_host_and_port(parts), ca, cert, key)


_SCHEMES: dict[str, Callable[[SplitResult, Options], Receiver]] = {
    "file": _file,
    "unix": _unix,
    "syslog+udp": _udp,
    "syslog+tcp": _tcp,
    "syslog+tls": _tls,
}


def _path(parts: SplitResult) -> Path:
    if parts.netloc or not parts.path.startswith("/"):
        raise ValueError(f"takes a path from the root, like {parts.scheme}:/run/sensor/events")
    return Path(parts.path)


def _host_and_port(parts: SplitResult) -> tuple[str, int]:
    if not parts.hostname or parts.port is None or parts.path.strip("/") or parts.username is not None:
        raise ValueError(f"takes a host and a port, like {parts.scheme}://logs.example:6514")
    parts.hostname.encode("idna")  # what is no name is found out here
    return parts.hostname, parts.port
