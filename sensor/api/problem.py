"""Error responses: problem details (RFC 9457). Runs in the API process."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from sensor.api.json_response import AsciiJson

DETAIL_MAX = 1000
"""Maximum number of characters in a detail: if there are ten thousand faults, the first ones are enough."""


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field("about:blank", description="`about:blank`: the title is the phrase of the status")
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["time: Input should be a valid integer, unable to parse 'abc'"])


class ProblemResponse(AsciiJson):
    """A problem as a response."""

    media_type = "application/problem+json"

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        title = HTTPStatus(status).phrase
        problem = Problem(type="about:blank", title=title, status=status, detail=detail[:DETAIL_MAX])
        super().__init__(problem.model_dump(), status, headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses for these statuses."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


async def on_http_error(_request: Request, error: Exception) -> ProblemResponse:
    """Answer an error raised by a route or the router."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type only
    phrase = HTTPStatus(error.status_code).phrase
    detail = "no such path" if error.detail == phrase == "Not Found" else error.detail
    return ProblemResponse(error.status_code, detail, error.headers)


async def on_invalid(_request: Request, error: Exception) -> ProblemResponse:
    """Answer invalid parameters, each by its name."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type only
    return ProblemResponse(422, "; ".join(_explain(fault) for fault in error.errors()[:20]))


def _explain(fault: Mapping[str, Any]) -> str:
    name = str(fault["loc"][-1]) if len(fault["loc"]) > 1 else "parameters"
    if fault["type"] == "extra_forbidden":
        return f"{name[:50]}: no such parameter"
    return f"{name[:50]}: {fault['msg'].removeprefix('Value error, ')}"


async def on_bug(_request: Request, _error: Exception) -> ProblemResponse:
    """Answer an unexpected error; the log has the traceback."""
    return ProblemResponse(500, "internal error; see the log of the sensor")
