"""Checks of the settings that decide who may use the API. Runs in the API process and in `sensor doctor`."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator

from sensor.api.tokens import TokenFile
from sensor.config.settings import Settings

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def answered_names(settings: Settings) -> frozenset[str] | None:
    """Return the host names that requests may be for; None means any."""
    names = frozenset(name.lower() for name in settings.api_hosts)
    own = loopback_names(settings.listen_host)
    if own is None and names:
        own = _LOOPBACK_NAMES | {_in_url(settings.listen_host)}
    return None if own is None else own | names


def needs_token(settings: Settings) -> bool:
    """Return True if others than the users of this host reach the API, or these need a token too."""
    is_reachable = loopback_names(settings.listen_host) is None or settings.api_hosts or settings.api_proxies
    return bool(settings.token_required or settings.tls_client_ca or is_reachable)


def loopback_names(host: str) -> frozenset[str] | None:
    """Return the host names of a loopback address; None for any other address."""
    if not ipaddress.ip_address(host).is_loopback:
        return None
    return _LOOPBACK_NAMES | {_in_url(host)}


def tls_faults(settings: Settings) -> Iterator[str]:
    """Yield one line per fault in the TLS settings."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        yield "tls_cert and tls_key: set both, or neither"
    if settings.tls_client_ca and not settings.tls_cert:
        yield "tls_client_ca: client certificates need TLS; set tls_cert and tls_key too"
    named = {name: getattr(settings, name) for name in ("tls_cert", "tls_key", "tls_client_ca")}
    readable = True
    for name, path in named.items():
        try:
            if path:
                path.open("rb").close()
        except OSError as error:
            readable = False
            yield f"{name}: {path}: cannot be read: {error.strerror}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if readable and settings.tls_cert and settings.tls_key:
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
        if readable and settings.tls_client_ca:
            context.load_verify_locations(settings.tls_client_ca)
    except ssl.SSLError as error:
        yield f"tls_cert, tls_key, tls_client_ca: cannot be used: {error}"


def token_fault(settings: Settings) -> str | None:
    """Return a fault if clients need a token and there is none; None otherwise.

    Raises:
        EvidenceError: the token file cannot be read.
    """
    if not needs_token(settings) or settings.tls_client_ca or TokenFile(settings.evidence).list():
        return None
    reasons = [name for name in ("token_required", "api_hosts", "api_proxies") if getattr(settings, name)]
    return (
        f"{reasons[0] if reasons else 'listen'}: {settings.listen} needs a token;"
        " create one with `sensor token create NAME`, or require client certificates with tls_client_ca"
    )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
