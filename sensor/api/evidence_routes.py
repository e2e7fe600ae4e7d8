"""Routes that find evidence: lookup by microsecond, search, one item, histogram. Runs in the API process."""

from __future__ import annotations

import time
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from starlette.responses import Response

from sensor.api.backend import UsesBackend, UsesRecord
from sensor.api.download import MEDIA_TYPES, file_response
from sensor.api.parameters import HistogramParameters, LookupParameters, SearchParameters
from sensor.api.problem import documented
from sensor.api.schemas import Bin, Detail, Histogram, Item, ItemPage, SeedEvidence
from sensor.api.visit import QueryRoute, UsesVisit, quick
from sensor.evidence.search import CursorError

LOOKUP_MAX = 10_000
"""Maximum number of packets of one microsecond in an answer: capture files may have coarse times."""

router = APIRouter(route_class=QueryRoute)


@router.get(
    "/evidence",
    tags=["lookup"],
    response_model=list[SeedEvidence],
    responses={
        200: {"content": {MEDIA_TYPES["pcap"]: {"schema": {"type": "string", "format": "binary"}}}},
        **documented(404, 410),
    },
)
@quick
def lookup_evidence(
    parameters: Annotated[LookupParameters, Query()], backend: UsesBackend, visit: UsesVisit
) -> list[SeedEvidence] | Response:
    """Return all packets of one microsecond in the order of their files, in the format of ly_probe."""
    found = list(islice(backend.index.iterate(parameters.query()), LOOKUP_MAX + 1))
    if len(found) > LOOKUP_MAX:
        raise HTTPException(422, f"more than {LOOKUP_MAX} packets have this time; use /api/v1/evidence")
    if not found:
        backend.require_complete_index()
    found.sort(key=lambda stored: (stored.devid, stored.path, stored.offset))
    packets = backend.read(found)
    visit.record.items = len(packets)
    if parameters.download:
        if not packets:
            raise HTTPException(404, "no packet has this time")
        return file_response(found, "pcap", "evidence", backend, visit, is_quick=True)
    return [SeedEvidence.of(stored, packet) for stored, packet in packets]


@router.get("/api/v1/evidence", tags=["evidence"])
def search_evidence(
    parameters: Annotated[SearchParameters, Query()], backend: UsesBackend, record: UsesRecord
) -> ItemPage:
    """Search evidence, newest first.

    A search stops after one second and returns what it has found, perhaps nothing, with a cursor.
    """
    try:
        page = backend.index.search(parameters.query(), parameters.limit, parameters.cursor)
    except CursorError as error:
        raise HTTPException(422, f"cursor: {error}") from error
    record.items = len(page.items)
    matches = backend.index.matches(page.items)
    return ItemPage(items=list(map(Item.of, page.items, matches)), cursor=page.cursor)


@router.get("/api/v1/evidence/{key}", tags=["evidence"], responses=documented(404, 410))
@quick
def get_evidence(key: str, backend: UsesBackend, record: UsesRecord) -> Detail:
    """Return one evidence item with its bytes, decoded layer by layer."""
    stored = backend.find(key)
    [(_, packet)] = backend.read([stored])
    record.items = 1
    return Detail.with_frame(stored, packet.frame)


@router.get("/api/v1/histogram", tags=["evidence"])
def count_evidence(parameters: Annotated[HistogramParameters, Query()], backend: UsesBackend) -> Histogram:
    """Count evidence over time. The filter `text` is ignored: the index does not contain payloads."""
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
