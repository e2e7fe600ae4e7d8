"""What every request passes before the routes: who asks, how often, by which name; what every response says.

Runs in the process of the API, around the whole application (plain ASGI). The pages are public, they hold
nothing: they ask for a token when the data answers 401.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensor.api.problem import ProblemResponse
from sensor.api.tokens import Role, TokenFile

QUERY_MAX = 8192
"""Longest query string, bytes."""
CLIENTS_MAX = 4096
"""Clients whose rates are known at a time."""
BURST_S = 2
"""A client that was quiet may use this many seconds' requests at once."""
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_DATA = ("/evidence", "/api/")

audit_log = logging.getLogger("sensor.audit")


class Who(NamedTuple):
    """Whoever asks."""

    name: str
    role: Role


LOCAL = Who("local", "admin")
"""Any user of this host, where loopback needs no token."""


@dataclass
class Access:
    """One request: who asks, and what of the evidence it is given; becomes a line of the audit."""

    who: Who | None = None
    pieces: int | None = None
    """Pieces of evidence in the answer; None for what is no evidence."""
    truncated: bool = False
    is_wanted: bool = True
    """Whether anybody still waits for a download."""
    status: int = 0
    sent_bytes: int = 0
    started_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Policy:
    """What the guard demands."""

    tokens: TokenFile
    loopback_names: frozenset[str] | None
    """Host names that are answered; None: any. On loopback a foreign name is DNS rebinding."""
    token_required: bool
    request_rate: int


class Guard:
    """The application, guarded."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self._app = app
        self._policy = policy
        self._rates = Rates(policy.request_rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        access = Access()
        scope.setdefault("state", {})["access"] = access

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                access.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if is_data(scope):
                    headers["Cache-Control"] = "no-store"
            elif message["type"] == "http.response.body":
                access.sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            answer = self._refusal(scope, access) or self._app
            await answer(scope, receive, send_marked)
        finally:
            _audit(scope, access)

    def _refusal(self, scope: Scope, access: Access) -> ProblemResponse | None:
        headers = Headers(scope=scope)
        names = self._policy.loopback_names
        if names is not None and _host_name(headers.get("host", "")) not in names:
            return ProblemResponse(421, "ask for this by its address or as localhost")
        if is_data(scope) and _is_other_site(headers):
            return ProblemResponse(403, "another web site may not ask for evidence")
        if len(scope["query_string"]) > QUERY_MAX:
            return ProblemResponse(414, f"the query is longer than {QUERY_MAX} bytes")
        if not self._rates.admit(scope["client"][0] if scope.get("client") else ""):
            return ProblemResponse(429, "too many requests; slow down", {"Retry-After": "1"})
        if not is_data(scope):
            return None
        access.who = self._who(scope, headers)
        if access.who is None:
            return ProblemResponse(
                401,
                "send a token: `Authorization: Bearer <token>`; `sensor token create` makes one",
                {"WWW-Authenticate": 'Bearer realm="sensor"'},
            )
        return None

    def _who(self, scope: Scope, headers: Headers) -> Who | None:
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            token = self._policy.tokens.find(text.strip())
            return Who(token.name, token.role) if token else None
        peer = scope["state"].get("peer")
        if peer is not None:
            return Who(peer, "read")
        return None if self._policy.token_required else LOCAL


class Rates:
    """A token bucket for each client's address."""

    def __init__(self, rate: int) -> None:
        """Admit ``rate`` requests a second and client; 0: any number."""
        self._rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, client: str) -> bool:
        """Whether the client may ask now."""
        if not self._rate:
            return True
        most = float(self._rate * BURST_S)
        now_s = time.monotonic()
        left, then_s = self._buckets.pop(client, (most, now_s))
        left = min(most, left + (now_s - then_s) * self._rate)
        admitted = left >= 1
        self._buckets[client] = (left - admitted, now_s)
        if len(self._buckets) > CLIENTS_MAX:
            self._buckets.popitem(last=False)
        return admitted


def is_data(scope: Scope) -> bool:
    """Whether the path leads to evidence, not to a page."""
    return str(scope["path"]).startswith(_DATA)


def _is_other_site(headers: Headers) -> bool:
    """Whether a page of another site fetches or embeds this; a link that a user follows is none of that."""
    follows_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not follows_link


def _host_name(host: str) -> str:
    """Return a Host header without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0].lower()


def _audit(scope: Scope, access: Access) -> None:
    """Write who saw how much of what, and who was refused."""
    if access.pieces is None and access.status not in (401, 403, 421):
        return
    line = {
        "time_us": time.time_ns() // 1000,
        "client": scope["client"][0] if scope.get("client") else None,
        "who": access.who.name if access.who else None,
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "status": access.status,
        "pieces": access.pieces or 0,
        "bytes": access.sent_bytes,
        "truncated": access.truncated,
        "ms": round((time.monotonic() - access.started_s) * 1000, 1),
    }
    audit_log.info("%s", json.dumps(line))
