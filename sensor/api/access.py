"""Who may ask, as far as the settings say: what does not fit together, or would let strangers in."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator

from sensor.api.tokens import TokenFile
from sensor.config.settings import Settings


def loopback_names(host: str) -> frozenset[str] | None:
    """Return the names a loopback address is asked by; None for any other address."""
    if not ipaddress.ip_address(host).is_loopback:
        return None
    return frozenset({"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host})


def tls_faults(settings: Settings) -> Iterator[str]:
    """Say what is wrong with the TLS files, a line each."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        yield "tls_cert and tls_key: name both, or neither"
    if settings.tls_client_ca and not settings.tls_cert:
        yield "tls_client_ca: client certificates need TLS; name tls_cert and tls_key too"
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
    """Say that nobody could ask, for want of a token.

    Raises:
        EvidenceError: The file of the tokens cannot be read.
    """
    needs_tokens = settings.token_required or loopback_names(settings.listen_host) is None
    if not needs_tokens or settings.tls_client_ca or TokenFile(settings.evidence).list():
        return None
    return (
        f"listen: {settings.listen} needs a token; make one with `sensor token create NAME`,"
        " or demand client certificates with tls_client_ca"
    )
