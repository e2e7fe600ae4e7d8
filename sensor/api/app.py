"""Builds the application from routes, pages, error handlers and guard. Runs in the API process."""

from __future__ import annotations

import sqlite3

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from sensor.api.access_settings import answered_names, needs_token
from sensor.api.backend import Backend
from sensor.api.guard import Guard, Policy
from sensor.api.json_response import AsciiJson
from sensor.api.openapi import describe
from sensor.api.page_files import add_pages
from sensor.api.problem import ProblemResponse, on_bug, on_http_error, on_invalid
from sensor.api.routes import router
from sensor.api.rule_files import RuleFiles
from sensor.api.schemas import VERSION
from sensor.config.settings import Settings
from sensor.errors import SensorError
from sensor.process.listener import Connections

DESCRIPTION = (
    "Finds packets that match a rule: by microsecond (`/evidence`), or by content (`/api/v1`). "
    "Errors are problem details (RFC 9457). On loopback, no token is needed unless `token_required` is set."
)


def create_app(settings: Settings) -> FastAPI:
    """Return the application without its guard, as OpenAPI describes it."""
    app = FastAPI(
        title="sensor",
        summary="Evidence: packets that match a rule",
        description=DESCRIPTION,
        version=VERSION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        default_response_class=AsciiJson,
        docs_url=None,  # it would load scripts from other sites
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    rules = RuleFiles(settings.rules, lenient=settings.lenient)
    app.state.backend = Backend(settings.evidence, rules, settings.export_mib << 20, settings.export_seconds)
    app.include_router(router)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(SensorError, _on_sensor_error)
    app.add_exception_handler(sqlite3.Error, _on_index_error)
    app.add_exception_handler(Exception, on_bug)
    add_pages(app)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app


def guarded(app: FastAPI, settings: Settings, connections: Connections) -> Guard:
    """Return the application behind its guard, ready for a network."""
    policy = Policy(
        tokens=app.state.backend.tokens,
        host_names=answered_names(settings),
        proxies=settings.api_proxies,
        token_required=needs_token(settings),
        request_rate=settings.request_rate,
        queries_max=settings.client_connections,
        query_seconds=settings.query_seconds,
        export_seconds=settings.export_seconds,
    )
    return Guard(app, policy, connections)


async def _on_sensor_error(_request: Request, error: Exception) -> ProblemResponse:
    return ProblemResponse(503, str(error))


async def _on_index_error(_request: Request, error: Exception) -> ProblemResponse:
    return ProblemResponse(503, f"the index cannot be read: {error}", {"Retry-After": "1"})
