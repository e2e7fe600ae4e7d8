"""All routes of the API under one router, with what every route requires. Runs in the API process."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from sensor.api import conversation_routes, download_routes, evidence_routes, hold_routes, sensor_routes
from sensor.api.parameters import refuse_repeats
from sensor.api.problem import documented

router = APIRouter(
    dependencies=[
        Depends(HTTPBearer(auto_error=False, description="A token made by `sensor token create`")),
        Depends(refuse_repeats),
    ],
    responses=documented(401, 422, 429, 503),
)
for part in (evidence_routes, download_routes, conversation_routes, hold_routes, sensor_routes):
    router.include_router(part.router)
