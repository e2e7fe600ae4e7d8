"""The guard: checks every request before the routes see it, and adds security headers to every response.

Runs in the API process, around the whole application (plain ASGI). The pages are public because they
contain no data; they ask the user for a token when a request for data is answered 401.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensor.api.audit import LOCAL, AccessRecord, Identity, write_audit
from sensor.api.problem import ProblemResponse
from sensor.api.rate_limit import RateLimiter
from sensor.api.tokens import TokenFile

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
_DATA = ("/evidence", "/api/")


@dataclass(frozen=True)
class Policy:
    """Requirements for requests."""

    tokens: TokenFile
    loopback_names: frozenset[str] | None
    """Host names answered; None means any. A foreign name on loopback is DNS rebinding."""
    token_required: bool
    request_rate: int


class Guard:
    """An ASGI application that admits requests to another one, and audits them."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self._app = app
        self._policy = policy
        self._limiter = RateLimiter(policy.request_rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        record = AccessRecord()
        scope.setdefault("state", {})["access"] = record

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
            answer = self._refusal(scope, record) or self._app
            await answer(scope, receive, send_with_headers)
        finally:
            write_audit(scope, record)

    def _refusal(self, scope: Scope, record: AccessRecord) -> ProblemResponse | None:
        headers = Headers(scope=scope)
        names = self._policy.loopback_names
        if names is not None and _host_name(headers.get("host", "")) not in names:
            return ProblemResponse(421, "wrong host name; use localhost or the loopback address")
        if is_data(scope) and _is_other_site(headers):
            return ProblemResponse(403, "requests from another web site are not allowed")
        if len(scope["query_string"]) > QUERY_MAX:
            return ProblemResponse(414, f"the query is longer than {QUERY_MAX} bytes")
        if not self._limiter.admit(scope["client"][0] if scope.get("client") else ""):
            return ProblemResponse(429, "too many requests; slow down", {"Retry-After": "1"})
        if not is_data(scope):
            return None
        record.identity = self._identify(scope, headers)
        if record.identity is None:
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
        return None if self._policy.token_required else LOCAL


def is_data(scope: Scope) -> bool:
    """Return True if the path returns data, not a page."""
    return str(scope["path"]).startswith(_DATA)


def _is_other_site(headers: Headers) -> bool:
    """Return True if another site's page fetches or embeds this; following a link from there is allowed."""
    follows_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not follows_link


def _host_name(host: str) -> str:
    """Return a Host header without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0].lower()
