"""The paths of the API; each asks the index and describes what it gives. Runs in the process of the API."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.security import HTTPBearer
from starlette.responses import Response, StreamingResponse

from sensor.api.download import MEDIA_TYPES, download, in_few_threads
from sensor.api.guard import Access
from sensor.api.parameters import (
    Filters,
    HistogramParameters,
    LookupParameters,
    SearchParameters,
    refuse_repeats,
)
from sensor.api.problem import documented
from sensor.api.rule_files import RuleFiles
from sensor.api.schemas import (
    VERSION,
    Bin,
    Detail,
    Disk,
    Histogram,
    Item,
    ItemPage,
    RuleItem,
    Rules,
    SeedEvidence,
    Status,
)
from sensor.api.tokens import Token, TokenFile
from sensor.errors import EvidenceError, RulesError
from sensor.evidence.export import Container
from sensor.evidence.pcap import Record
from sensor.evidence.search import CursorError, EvidenceSearch, Stored
from sensor.rules.files.describe import rule_object

LOOKUP_MAX = 10_000
"""Most packets of one microsecond in an answer: capture files may have times as coarse as they like."""
STATUS_S = 1.0
"""For so long a status is given again: it opens every database."""


class Backend:
    """What the routes ask."""

    def __init__(self, evidence: Path, rules: RuleFiles, download_max_bytes: int) -> None:
        self.index = EvidenceSearch(evidence)
        self.tokens = TokenFile(evidence)
        self.rules = rules
        self.download_max_bytes = download_max_bytes
        self._status: tuple[float, dict[str, Any]] = (0.0, {})

    def status(self) -> dict[str, Any]:
        """Return what the index says about itself, at most `STATUS_S` old."""
        until_s, status = self._status
        if time.monotonic() >= until_s:
            status = self.index.status()
            self._status = (time.monotonic() + STATUS_S, status)
        return status


# Coroutines, as every dependency: plain functions would each be a trip to a thread and back.
async def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


async def _access(request: Request) -> Access:
    access: Access = request.state.access
    return access


Use = Annotated[Backend, Depends(_backend)]
Audited = Annotated[Access, Depends(_access)]

router = APIRouter(
    dependencies=[
        Depends(HTTPBearer(auto_error=False, description="A token of `sensor token create`")),
        Depends(refuse_repeats),
    ],
    responses=documented(401, 422, 429, 503),
)

_PCAP = {
    media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES.values()
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A capture file, cut where one packet more would make it longer than `X-Limit-Bytes`",
        "content": _PCAP,
    }
}


@router.get(
    "/evidence",
    tags=["lookup"],
    response_model=list[SeedEvidence],
    responses={
        200: {"content": {"application/vnd.tcpdump.pcap": _PCAP["application/vnd.tcpdump.pcap"]}},
        **documented(404, 410),
    },
)
def lookup_evidence(
    parameters: Annotated[LookupParameters, Query()], backend: Use, access: Audited
) -> list[SeedEvidence] | Response:
    """Return all packets of one microsecond, in the order of their files; as ly_probe answers it."""
    found = list(islice(backend.index.iterate(parameters.query()), LOOKUP_MAX + 1))
    if len(found) > LOOKUP_MAX:
        raise HTTPException(422, f"more than {LOOKUP_MAX} packets have this time; use /api/v1/evidence")
    _explain_absence(found, backend)
    found.sort(key=lambda stored: (stored.devid, stored.path, stored.offset))
    read = _readable(found, backend.index)
    access.pieces = len(read)
    if parameters.download:
        if not read:
            raise HTTPException(404, "no packet has this time")
        return _file(found, "pcap", "evidence", backend, access)
    return [SeedEvidence.of(stored, record) for stored, record in read]


def _explain_absence(found: list[Stored], backend: Backend) -> None:
    """Refuse to say that there is nothing while the index does not know."""
    if found:
        return
    index = backend.status()["index"]
    if index["state"] != "ok":
        raise HTTPException(
            503,
            f"not found so far: the index is {index['state']}, {index['done']} of {index['total']} bytes",
            {"Retry-After": "10"},
        )


def _readable(found: list[Stored], index: EvidenceSearch) -> list[tuple[Stored, Record]]:
    """Read what is still in its files; all of it gone is an error."""
    read = []
    reason = ""
    for stored in found:
        try:
            read.append((stored, index.record(stored)))
        except EvidenceError as error:
            reason = str(error)
    if found and not read:
        raise HTTPException(410, reason)
    return read


@router.get("/api/v1/evidence", tags=["evidence"])
def search_evidence(
    parameters: Annotated[SearchParameters, Query()], backend: Use, access: Audited
) -> ItemPage:
    """Search, the newest evidence first.

    A search that takes longer than a second gives what it found and a cursor, also where that is nothing yet.
    """
    try:
        page = backend.index.search(parameters.query(), parameters.limit, parameters.cursor)
    except CursorError as error:
        raise HTTPException(422, f"cursor: {error}") from error
    access.pieces = len(page.items)
    return ItemPage(items=[Item.of(stored) for stored in page.items], cursor=page.cursor)


@router.get("/api/v1/evidence/{key}", tags=["evidence"], responses=documented(404, 410))
def get_evidence(key: str, backend: Use, access: Audited) -> Detail:
    """Return one piece with its bytes, decoded layer by layer."""
    stored = _find(key, backend)
    [(_, record)] = _readable([stored], backend.index)
    access.pieces = 1
    return Detail.with_frame(stored, record.frame)


@router.get(
    "/api/v1/evidence/{key}/flow.{container}",
    tags=["downloads"],
    response_class=Response,
    responses={**_FILE, **documented(404)},
)
def download_flow(key: str, container: Container, backend: Use, access: Audited) -> Response:
    """Download the evidence of a piece's flow, both directions, within an hour."""
    stored = _find(key, backend)
    return _file(backend.index.flow(stored), container, f"{stored.key}-flow", backend, access)


@router.get(
    "/api/v1/evidence/{key}/{container}",
    tags=["downloads"],
    response_class=Response,
    responses={**_FILE, **documented(404, 410)},
)
def download_packet(key: str, container: Container, backend: Use, access: Audited) -> Response:
    """Download one packet."""
    stored = _find(key, backend)
    _readable([stored], backend.index)
    return _file([stored], container, stored.key, backend, access)


@router.get("/api/v1/export.{container}", tags=["downloads"], response_class=Response, responses=dict(_FILE))
def export_evidence(
    container: Container, filters: Annotated[Filters, Query()], backend: Use, access: Audited
) -> Response:
    """Download all that the filters find, the oldest first, up to the size that is set."""
    pieces = backend.index.iterate(filters.query(), lambda: access.is_wanted)
    return _file(pieces, container, "evidence", backend, access)


@router.get("/api/v1/histogram", tags=["evidence"])
def count_evidence(parameters: Annotated[HistogramParameters, Query()], backend: Use) -> Histogram:
    """Count evidence over time. The text is not looked at here: only packets' own bytes could tell."""
    devices = backend.status()["devices"]
    oldest = [device["oldest_us"] for device in devices if device["oldest_us"] is not None]
    newest = [device["newest_us"] + 1 for device in devices if device["newest_us"] is not None]
    now_us = time.time_ns() // 1000
    since_us = parameters.since_us if parameters.since_us is not None else min(oldest, default=now_us)
    until_us = parameters.until_us if parameters.until_us is not None else max(newest, default=now_us)
    until_us = max(until_us, since_us + 1)
    bins = backend.index.histogram(parameters.query(), since_us, until_us, parameters.bins)
    bin_us = -((since_us - until_us) // parameters.bins)
    return Histogram(since_us=since_us, until_us=until_us, bin_us=bin_us, bins=[Bin(**one) for one in bins])


@router.get("/api/v1/rules", tags=["sensor"])
def list_rules(backend: Use) -> Rules:
    """Return the rules in the rule files."""
    try:
        rules = backend.rules.load()
    except RulesError as error:
        raise HTTPException(503, str(error)) from error
    return Rules(digest=rules.digest, rules=[RuleItem(**rule_object(rule)) for rule in rules])


@router.get("/api/v1/status", tags=["sensor"])
def get_status(backend: Use) -> Status:
    """Return what is kept, how far the index is, and the room on the disk."""
    disk = shutil.disk_usage(backend.index.directory)
    return Status(
        version=VERSION,
        **backend.status(),
        disk=Disk(free_bytes=disk.free, total_bytes=disk.total),
    )


@router.get("/api/v1/tokens", tags=["sensor"], responses=documented(403))
def list_tokens(backend: Use, access: Audited) -> list[Token]:
    """Return who has a token; only an `admin` may know."""
    if access.who is None or access.who.role != "admin":
        raise HTTPException(403, "this takes a token with the role admin")
    return list(backend.tokens.list())


def _find(key: str, backend: Backend) -> Stored:
    stored = backend.index.get(key)
    if stored is None:
        _explain_absence([], backend)
        raise HTTPException(404, "no piece of evidence has this key, or it is not kept any more")
    return stored


def _file(
    pieces: Iterable[Stored],
    container: Container,
    name: str,
    backend: Backend,
    access: Access,
) -> Response:
    """Stream a capture file."""
    chunks = download(pieces, container, backend.download_max_bytes, access)
    return StreamingResponse(
        in_few_threads(chunks, access),
        media_type=MEDIA_TYPES[container],
        headers={
            "Content-Disposition": f'attachment; filename="{name}.{container}"',
            "X-Limit-Bytes": str(backend.download_max_bytes),
        },
    )
