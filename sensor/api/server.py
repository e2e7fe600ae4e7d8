"""`sensor serve`: opens what needs privileges, drops them, serves until stopped. Runs in the API process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
from pathlib import Path
from types import FrameType

import anyio.to_thread
import uvicorn

from sensor.api.access_settings import loopback_names, tls_faults, token_fault
from sensor.api.app import create_app, guarded
from sensor.api.audit import AuditFile, audit_log
from sensor.api.connection import Connection
from sensor.api.hold_keeper import HoldKeeper, start_keeper
from sensor.config.directories import directory_fault
from sensor.config.settings import Settings
from sensor.errors import EvidenceError, RulesError, SensorError, SettingsError
from sensor.process.listener import BACKLOG, LOOPBACK, Connections, Listener
from sensor.process.privileges import drop_privileges

CONNECTIONS_MAX = 512
"""Maximum number of connections at a time."""
SWITCH_S = 0.0005
"""Time after which a thread lets another one run, a tenth of Python's: lookups overtake long queries."""
NICE = 10
"""Niceness beside `sensor run`: capture comes first."""
SHUTDOWN_S = 5
"""Time for responses in progress when the server stops, seconds."""

log = logging.getLogger(__name__)


def serve(settings: Settings, *, until_eof: bool) -> None:
    """Serve until SIGINT or SIGTERM or, with ``until_eof``, until standard input ends.

    Raises:
        SettingsError: the settings of TLS, tokens, user or audit have a fault.
        EvidenceError: the evidence directory cannot be read.
        PrivilegeError: root privileges cannot be dropped.
        SensorError: the address cannot be listened on.
    """
    _check(settings)
    # First: it is a fork, and needs nothing of what follows.
    hold_keeper = start_keeper(settings.evidence, settings.hold_socket)
    try:
        _serve_app(settings, hold_keeper, until_eof=until_eof)
    finally:
        if hold_keeper:
            hold_keeper.close()


def _serve_app(settings: Settings, hold_keeper: HoldKeeper | None, *, until_eof: bool) -> None:
    app = create_app(settings)
    app.state.backend.hold_keeper = hold_keeper
    shared = (*LOOPBACK, *settings.api_proxies)
    connections = Connections(CONNECTIONS_MAX, settings.client_connections, shared)
    config = uvicorn.Config(
        guarded(app, settings, connections),
        http=Connection,
        ws="none",
        lifespan="off",
        loop="asyncio",
        access_log=False,
        log_config=None,
        proxy_headers=False,  # the guard knows which proxies to believe
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=str(settings.tls_client_ca) if settings.tls_client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca else ssl.CERT_NONE,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"tls_cert, tls_key, tls_client_ca: cannot be used: {error}") from error
    # Load now what is otherwise loaded on first use: after privileges are dropped it may not be readable.
    anyio.run(anyio.to_thread.run_sync, app.openapi)
    with contextlib.suppress(RulesError):  # evidence is served even if the rules have faults
        app.state.backend.rules.load()
    _open_audit(settings)
    listener = _listen(settings, connections)
    sys.setswitchinterval(SWITCH_S)
    if until_eof:
        os.nice(NICE)
    drop_privileges(settings.api_user, settings.evidence, _rules_directories(settings.rules))
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    scheme = "https" if settings.tls_cert else "http"
    log.info("serving evidence at %s://%s/", scheme, _address(listener))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)  # uvicorn raises the signal again when it stops
    asyncio.run(_serve(uvicorn.Server(config), listener, until_eof=until_eof))


def _rules_directories(rules: Path) -> list[Path]:
    """Return the directories that contain the rules now and after they are replaced by others."""
    above = rules.absolute().parent
    return [rules] if above == above.parent else [rules, above]


def _check(settings: Settings) -> None:
    """Check settings that would expose evidence or cannot work."""
    evidence_fault = directory_fault(settings.evidence)
    if evidence_fault:
        raise EvidenceError(
            f"{settings.evidence}: {evidence_fault}; name the evidence directory with --evidence"
        )
    for fault in (*tls_faults(settings), token_fault(settings)):
        if fault:
            raise SettingsError(fault)
    if loopback_names(settings.listen_host) is None and not settings.tls_cert:
        log.warning("no TLS on %s: tokens and evidence can be read in transit; set tls_cert", settings.listen)


def _open_audit(settings: Settings) -> None:
    """Send the audit log to its file, opened for appending before privileges are dropped."""
    audit_log.setLevel(logging.INFO)
    if settings.audit is None:
        return
    try:
        handler = AuditFile(settings.audit)
    except OSError as error:
        raise SettingsError(f"audit: {settings.audit}: cannot be written: {error.strerror}") from error
    audit_log.addHandler(handler)
    audit_log.propagate = False


def _listen(settings: Settings, connections: Connections) -> Listener:
    try:
        return Listener(settings.listen_host, settings.listen_port, connections)
    except OSError as error:
        raise SensorError(
            f"cannot listen on {settings.listen}: {os.strerror(error.errno or 0)}; choose another --listen"
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _serve(server: uvicorn.Server, listener: socket.socket, *, until_eof: bool) -> None:
    def stop_at_eof() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin)
            server.should_exit = True

    if until_eof:
        asyncio.get_running_loop().add_reader(sys.stdin, stop_at_eof)
    await server.serve([listener])


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Ignore a signal, so that the process ends when the server has stopped."""
