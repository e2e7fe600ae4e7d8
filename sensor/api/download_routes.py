"""Routes that answer evidence as capture files. Runs in the API process."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from sensor.api.backend import UsesBackend
from sensor.api.download import FILE, file_response
from sensor.api.parameters import Filters
from sensor.api.problem import documented
from sensor.api.visit import QueryRoute, UsesVisit, quick
from sensor.evidence.export import Container

router = APIRouter(tags=["downloads"], route_class=QueryRoute)


@router.get(
    "/api/v1/evidence/{key}/flow.{container}",
    response_class=Response,
    responses={**FILE, **documented(404)},
)
def download_flow(key: str, container: Container, backend: UsesBackend, visit: UsesVisit) -> Response:
    """Download the evidence of the item's flow, both directions, within an hour."""
    stored = backend.find(key)
    flow = backend.index.flow(stored)
    return file_response(flow, container, f"{stored.key}-flow", backend, visit)


@router.get(
    "/api/v1/evidence/{key}/{container}",
    response_class=Response,
    responses={**FILE, **documented(404, 410)},
)
@quick
def download_packet(key: str, container: Container, backend: UsesBackend, visit: UsesVisit) -> Response:
    """Download one packet."""
    stored = backend.find(key)
    backend.read([stored])
    return file_response([stored], container, stored.key, backend, visit, is_quick=True)


@router.get("/api/v1/export.{container}", response_class=Response, responses=dict(FILE))
def export_evidence(
    container: Container, filters: Annotated[Filters, Query()], backend: UsesBackend, visit: UsesVisit
) -> Response:
    """Download all evidence that passes the filters, oldest first, up to the configured size."""
    items = backend.index.steps(filters.query())
    return file_response(items, container, "evidence", backend, visit)
