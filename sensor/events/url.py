"""The URLs of receivers, as in the setting ``events``. Runs in the supervisor and in the event sender."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from sensor.errors import SettingsError
from sensor.events.file_receiver import FileReceiver
from sensor.events.receiver import Receiver, StdoutReceiver
from sensor.events.socket_receivers import TcpSyslog, TlsSyslog, UdpSyslog, UnixSocket

STDOUT = "--json"
"""The name of the receiver for standard output; it gets the objects of ``--json`` instead of alerts."""

Options = dict[str, str]


def receiver_of(url: str) -> Receiver:
    """Return the receiver that a URL names, closed.

    Raises:
        SettingsError: the URL is invalid, or its receiver cannot be used.
    """
    if url == STDOUT:
        return StdoutReceiver()
    try:
        receiver = _parse(urlsplit(url))
        receiver.check()
    except ValueError as error:
        raise SettingsError(f"events: {url}: {error}") from error
    except OSError as error:
        culprit = f"{error.filename}: " if error.filename else ""
        raise SettingsError(f"events: {url}: {culprit}{error.strerror or error}") from error
    return receiver


def client_certificates(urls: Iterable[str]) -> list[Path]:
    """Return the files of our own certificates that the URLs name."""
    return [Path(text) for url in urls for name, text in parse_qsl(urlsplit(url).query) if name == "cert"]


def _parse(parts: SplitResult) -> Receiver:
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"must start with one of {', '.join(f'{scheme}:' for scheme in _SCHEMES)}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    receiver = _SCHEMES[parts.scheme](parts, options)  # removes the options that it knows
    if options or parts.fragment:
        raise ValueError(f"unknown option {', '.join(options) or parts.fragment}")
    return receiver


def _file(parts: SplitResult, options: Options) -> Receiver:
    mib, keep = int(options.pop("mib", "100")), int(options.pop("keep", "5"))
    if mib < 0 or keep < 1:
        raise ValueError("mib must be 0 (never rotate) or more, keep must be 1 or more")
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
        raise ValueError(f"needs an absolute path, like {parts.scheme}:/run/sensor/events")
    return Path(parts.path)


def _host_and_port(parts: SplitResult) -> tuple[str, int]:
    if not parts.hostname or parts.port is None or parts.path.strip("/") or parts.username is not None:
        raise ValueError(f"needs a host and a port, like {parts.scheme}://logs.example:6514")
    parts.hostname.encode("idna")  # raises ValueError for an invalid name
    return parts.hostname, parts.port
