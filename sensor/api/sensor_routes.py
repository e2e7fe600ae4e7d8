"""Routes about the sensor itself: rules, status, tokens. Runs in the API process."""

from __future__ import annotations

import shutil

from fastapi import APIRouter, HTTPException

from sensor.api.backend import UsesBackend, UsesRecord
from sensor.api.problem import documented
from sensor.api.schemas import VERSION, Disk, RuleItem, Rules, Status
from sensor.api.tokens import Token
from sensor.api.visit import QueryRoute, quick
from sensor.errors import RulesError
from sensor.rules.files.describe import rule_object

router = APIRouter(prefix="/api/v1", tags=["sensor"], route_class=QueryRoute)


@router.get("/rules")
def list_rules(backend: UsesBackend) -> Rules:
    """Return the rules in the rule files."""
    try:
        rules = backend.rules.load()
    except RulesError as error:
        raise HTTPException(503, str(error)) from error
    return Rules(digest=rules.digest, rules=[RuleItem(**rule_object(rule)) for rule in rules])


@router.get("/status")
@quick
def get_status(backend: UsesBackend) -> Status:
    """Return the evidence kept per device, the state of the index, and the space on disk."""
    disk = shutil.disk_usage(backend.index.directory)
    return Status(
        version=VERSION,
        **backend.status(),
        disk=Disk(free_bytes=disk.free, total_bytes=disk.total),
    )


@router.get("/tokens", responses=documented(403))
@quick
def list_tokens(backend: UsesBackend, record: UsesRecord) -> list[Token]:
    """Return the names and roles of all tokens; requires the role `admin`."""
    if record.identity is None or record.identity.role != "admin":
        raise HTTPException(403, "this requires a token with the role admin")
    return list(backend.tokens.list())
