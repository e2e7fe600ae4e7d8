"""The guard: checks every request before the routes see it, and adds security headers to every response.

Runs in the API process, around the whole application (plain ASGI). The pages are public because they
contain no data; they ask the user for a token when a request for data is answered 401.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensor.api.audit import LOCAL, AccessRecord, Identity, write_audit
from sensor.api.client_address import HEADERS, client_address
from sensor.api.deadline import Deadline
from sensor.api.download import DownloadCutError
from sensor.api.problem import ProblemResponse
from sensor.api.rate_limit import RateLimiter
from sensor.api.tokens import TokenFile
from sensor.api.visit import Slots, Visit
from sensor.config.settings import Network
from sensor.process.listener import Connections, client_of

QUERY_MAX = 8192
"""Longest query string, bytes."""
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
SEND_S = 60.0
"""Seconds a client has to receive an answer, besides downloads."""
_DATA = ("/evidence", "/api/")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """Requirements for requests."""

    tokens: TokenFile
    host_names: frozenset[str] | None
    """Host names answered; None means any. A foreign name on loopback is DNS rebinding."""
    proxies: Collection[Network]
    """Proxies whose ``X-Forwarded-For`` is believed."""
    token_required: bool
    request_rate: int
    queries_max: int
    """Queries that one client may have at a time."""
    query_seconds: float
    export_seconds: float


class Guard:
    """An ASGI application that admits requests to another one, and audits them."""

    def __init__(self, app: ASGIApp, policy: Policy, connections: Connections) -> None:
        self._app = app
        self._policy = policy
        self._connections = connections
        self._limiter = RateLimiter(policy.request_rate)
        self._slots = Slots(policy.queries_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        peer = scope["client"][0] if scope.get("client") else "::"
        forwarded = Headers(scope=scope).getlist("x-forwarded-for")
        record = AccessRecord(client_address(peer, forwarded, self._policy.proxies))
        deadline = Deadline(self._policy.query_seconds, "query_seconds")
        visit = Visit(client_of(record.client), record, deadline, self._slots)
        scope.setdefault("state", {})["visit"] = visit

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if is_data(scope):
                    headers["Cache-Control"] = "no-store"
            elif message["type"] == "http.response.body":
                record.sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            answer = self._refusal(scope, visit) or self._app
            with self._connections.answering(scope.get("client")):
                await self._answer(answer, scope, receive, send_with_headers)
        finally:
            write_audit(scope, record)

    async def _answer(self, answer: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the client has gone, or has had the time for a download."""
        visit: Visit = scope["state"]["visit"]
        longest_s = max(self._policy.export_seconds, self._policy.query_seconds + SEND_S)
        with anyio.CancelScope(deadline=anyio.current_time() + longest_s) as limit:
            watcher = asyncio.create_task(_watch(receive, visit.deadline, limit))
            is_cut = False
            try:
                await answer(scope, _wait_for_ever, send)
            except DownloadCutError:
                is_cut = True
            finally:
                watcher.cancel()
        if is_cut or (limit.cancelled_caught and not visit.deadline.is_abandoned):
            # Without its last chunk, the client knows that the answer is incomplete.
            visit.record.truncated = True
            log.warning("%s: %s was closed in the middle of a long answer", scope["path"], visit.client)
            scope["state"]["abort"]()
            await receive()  # returns when the connection is closed

    def _refusal(self, scope: Scope, visit: Visit) -> ProblemResponse | None:
        headers = Headers(scope=scope)
        names = self._policy.host_names
        if names is not None and _host_name(headers.get("host", "")) not in names:
            return ProblemResponse(
                421, "wrong host name; use localhost or the loopback address, or add the name to api_hosts"
            )
        if is_data(scope) and _is_other_site(headers, scope["method"]):
            return ProblemResponse(403, "requests from another web site are not allowed")
        if len(scope["query_string"]) > QUERY_MAX:
            return ProblemResponse(414, f"the query is longer than {QUERY_MAX} bytes")
        if not self._limiter.admit(visit.client):
            return ProblemResponse(429, "too many requests; slow down", {"Retry-After": "1"})
        if not is_data(scope):
            return None
        visit.record.identity = self._identify(scope, headers)
        if visit.record.identity is None:
            return ProblemResponse(
                401,
                "send a token: `Authorization: Bearer <token>`; create one with `sensor token create`",
                {"WWW-Authenticate": 'Bearer realm="sensor"'},
            )
        return None

    def _identify(self, scope: Scope, headers: Headers) -> Identity | None:
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            token = self._policy.tokens.find(text.strip())
            return Identity(token.name, token.role) if token else None
        certificate_name = scope["state"].get("certificate_name")
        if certificate_name is not None:
            return Identity(certificate_name, "read")
        is_forwarded = any(name in headers for name in HEADERS)
        return None if self._policy.token_required or is_forwarded else LOCAL


async def _wait_for_ever() -> Message:
    """Stand in for ``receive``: requests have no body, and the guard notices when a client has gone."""
    while True:
        await anyio.sleep_forever()


async def _watch(receive: Receive, deadline: Deadline, limit: anyio.CancelScope) -> None:
    """Cancel the answer when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    deadline.abandon()
    limit.cancel()


def is_data(scope: Scope) -> bool:
    """Return True if the path returns data, not a page."""
    return str(scope["path"]).startswith(_DATA)


def _is_other_site(headers: Headers, method: str) -> bool:
    """Return True if another site's page fetches or embeds this; following a link from there is allowed."""
    follows_link = (
        method == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not follows_link


def _host_name(host: str) -> str:
    """Return a Host header without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0].lower()
