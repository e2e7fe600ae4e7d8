"""Routes about holds: evidence that no limit deletes. Runs in the API process."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request

from sensor.api.audit import AccessRecord
from sensor.api.backend import Backend, UsesBackend, UsesRecord
from sensor.api.hold_keeper import QUERY_MAX, HoldRefusedError, HoldRequest
from sensor.api.parameters import HoldParameters, ReleaseParameters
from sensor.api.problem import documented
from sensor.api.schemas import Hold, HoldCreated, HoldFiles, Holds
from sensor.api.visit import QueryRoute, quick
from sensor.evidence.evidence_file import is_gone
from sensor.evidence.holding import files_with, holds_in_force, in_words, new_name

router = APIRouter(prefix="/api/v1/holds", tags=["holds"], route_class=QueryRoute)


@router.get("")
@quick
def list_holds(backend: UsesBackend, record: UsesRecord) -> Holds:
    """Return the holds in force, the oldest first."""
    return Holds(holds=_holds(backend), may_change=backend.hold_keeper is not None and _is_admin(record))


@router.post("", status_code=201, responses=documented(403, 404))
def hold_evidence(
    parameters: Annotated[HoldParameters, Query()], request: Request, backend: UsesBackend, record: UsesRecord
) -> HoldCreated:
    """Keep the files that have this evidence now from every limit; requires the role `admin`.

    They are kept whole, with what else is in them, until the hold is released.
    """
    token = _token(request, record)
    query = parameters.query()
    files = files_with(backend.index, query)
    if not files:
        raise HTTPException(404, "there is no such evidence, so nothing is held")
    name = new_name()
    asked = in_words(query)[:QUERY_MAX]
    change = HoldRequest(
        token=token, action="hold", hold=name, reason=parameters.reason, query=asked, files=files
    )
    _write(change, backend)
    [hold] = [one for one in _holds(backend) if one.hold == name]
    directories = {devid: backend.index.directory / str(devid) for devid in files}
    gone = [one for devid, names in files.items() for one in names if is_gone(directories[devid] / one)]
    return HoldCreated(**hold.model_dump(), deleted=gone)


@router.delete("/{hold}", responses=documented(403, 404))
@quick
def release_hold(
    hold: Annotated[str, Path(max_length=40, description="Name of the hold")],
    parameters: Annotated[ReleaseParameters, Query()],
    request: Request,
    backend: UsesBackend,
    record: UsesRecord,
) -> Hold:
    """Release a hold, and return it: the limits delete its evidence again; requires the role `admin`."""
    token = _token(request, record)
    found = [one for one in _holds(backend) if one.hold == hold]
    if not found:
        raise HTTPException(404, "no hold in force has this name")
    [released] = found
    files: dict[int, tuple[str, ...]] = {device.devid: () for device in released.devices}
    change = HoldRequest(
        token=token, action="release", hold=hold, reason=parameters.reason, query="", files=files
    )
    _write(change, backend)
    return released


def _holds(backend: Backend) -> list[Hold]:
    """Return the holds in force, each with all its devices."""
    holds: dict[str, Hold] = {}
    for devid, entry in holds_in_force(backend.index):
        hold = holds.setdefault(entry.hold, Hold.of(entry))
        hold.devices.append(HoldFiles(devid=devid, files=len(entry.files)))
    return sorted(holds.values(), key=lambda hold: (hold.time, hold.hold))


def _is_admin(record: AccessRecord) -> bool:
    return record.identity is not None and record.identity.role == "admin"


def _token(request: Request, record: AccessRecord) -> str:
    """Return the token of an administrator, and let the audit log have this request."""
    record.is_change = True
    if not _is_admin(record):
        raise HTTPException(403, "this requires a token with the role admin")
    return request.headers["authorization"].partition(" ")[2].strip()


def _write(request: HoldRequest, backend: Backend) -> None:
    if backend.hold_keeper is None:
        raise HTTPException(
            503,
            "this API may not write holds; run sensor evidence hold, or start the API as the owner",
        )
    try:
        backend.hold_keeper.write(request)
    except HoldRefusedError as error:
        raise HTTPException(503, str(error)) from error
