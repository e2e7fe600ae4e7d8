"""Routes that answer conversations: the packets around a match. Runs in the API process."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from starlette.responses import Response

from sensor.api.backend import UsesBackend, UsesRecord
from sensor.api.conversation_schemas import (
    ConversationItem,
    ConversationList,
    ConversationPacket,
    ConversationPackets,
    Transcript,
    TranscriptPassage,
)
from sensor.api.download import FILE, file_response
from sensor.api.parameters import (
    ConversationParameters,
    ConversationsParameters,
    ExportParameters,
    PacketsParameters,
    TranscriptParameters,
)
from sensor.api.problem import documented
from sensor.api.visit import QueryRoute, UsesVisit, quick
from sensor.evidence.cursor import CursorError, cursor_text, parse_cursor
from sensor.evidence.export import Losses
from sensor.evidence.search import LOCATE_NS
from sensor.evidence.stored import StoredRecords
from sensor.evidence.transcript import transcript
from sensor.rules.engine.budget import Budget

_ONE = documented(404, 409)
router = APIRouter(prefix="/api/v1/conversations", tags=["conversations"], route_class=QueryRoute)


@router.get("")
def list_conversations(
    parameters: Annotated[ConversationsParameters, Query()], backend: UsesBackend, record: UsesRecord
) -> ConversationList:
    """List conversations, newest first.

    A conversation is listed if one of its matches passes the filters. Times are those of its first match.
    """
    before = None
    if parameters.cursor:
        try:
            number, _, devid = parse_cursor(parameters.cursor)
        except CursorError as error:
            raise HTTPException(422, f"cursor: {error}") from error
        before = number, devid
    page = backend.conversations.page(parameters.query(), parameters.limit, before)
    record.items = sum(len(one.packets) for one in page.conversations)
    cursor = None if page.before is None else cursor_text((page.before[0], 0, page.before[1]))
    return ConversationList(conversations=list(map(ConversationItem.of, page.conversations)), cursor=cursor)


@router.get("/{key}", responses=_ONE)
@quick
def get_conversation(
    key: str,
    parameters: Annotated[ConversationParameters, Query()],
    backend: UsesBackend,
    record: UsesRecord,
) -> ConversationItem:
    """Return one conversation, by its number or by the key or the microsecond of any of its packets."""
    conversation = backend.find_conversation(key, parameters.devid)
    record.items = len(conversation.packets)
    return ConversationItem.of(conversation)


@router.get("/{key}/packets", responses=_ONE)
@quick
def list_packets(
    key: str, parameters: Annotated[PacketsParameters, Query()], backend: UsesBackend, record: UsesRecord
) -> ConversationPackets:
    """Return the packets of a conversation in the order of time."""
    conversation = backend.find_conversation(key, parameters.devid)
    places = list(islice(conversation.places(), parameters.limit))
    record.items = len(places)
    matches = backend.index.matches([place.stored for place in places])
    return ConversationPackets(
        packets=list(map(ConversationPacket.at, places, matches)),
        cut=len(places) < len(conversation.packets),
    )


@router.get("/{key}/transcript", responses=_ONE)
@quick
def get_transcript(
    key: str, parameters: Annotated[TranscriptParameters, Query()], backend: UsesBackend, record: UsesRecord
) -> Transcript:
    """Return the payloads of a conversation as text, in the order of time, with the matches marked."""
    conversation = backend.find_conversation(key, parameters.devid)
    with closing(StoredRecords()) as records:
        found = transcript(conversation, records, Budget(LOCATE_NS), parameters.limit_bytes)
        passages = [TranscriptPassage.of(passage) for passage in backend.checked(found)]
    record.items = len(passages)
    return Transcript(passages=passages, cut=any(passage.cut for passage in passages))


@router.get("/{key}/export", response_class=Response, responses={**FILE, **_ONE})
def export_conversation(
    key: str, parameters: Annotated[ExportParameters, Query()], backend: UsesBackend, visit: UsesVisit
) -> Response:
    """Download the packets of a conversation; as pcapng, with their roles and what was lost meanwhile."""
    conversation = backend.find_conversation(key, parameters.devid)
    note = conversation.note
    losses = Losses(note.lost, conversation.first_us, conversation.last_us) if note else None
    name = f"{conversation.devid}-conversation-{conversation.number}"
    return file_response(conversation.packets, parameters.container, name, backend, visit, losses=losses)
