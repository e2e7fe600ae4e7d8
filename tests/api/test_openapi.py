"""Tests of the OpenAPI document: it is current, complete and correct."""

from __future__ import annotations

import schemathesis
from api_samples import Server
from hypothesis import HealthCheck, settings
from record_openapi import RECORDED, document
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from sensor.api.app import create_app
from sensor.config.settings import Settings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(create_app(Settings()).openapi())


def test_the_recorded_document_is_current() -> None:
    """`docs/openapi.json` is the document of this API."""
    assert RECORDED.read_text() == document(), "record it: python -m tests.api.record_openapi"


def test_everything_is_described(server: Server) -> None:
    """Each operation has an id, a description, and problem details for its errors."""
    document = server.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids) > 12
    for operation in operations:
        assert operation["description"]
        assert all(
            parameter.get("description") or parameter["in"] == "path"
            for parameter in operation.get("parameters", [])
        )
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                [(media_type, content)] = response["content"].items()
                assert media_type == "application/problem+json"
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert {"SeedEvidence", "Item", "Detail", "Problem", "Status"} <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in document["components"]["schemas"]


@SCHEMA.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case: schemathesis.Case, server: Server) -> None:
    """Valid and invalid parameters get an answer that the document describes, and never a server error."""
    case.call_and_validate(base_url=str(server.client.base_url), checks=CHECKS, timeout=20)
