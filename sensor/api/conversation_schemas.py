"""Answers about conversations, as models that OpenAPI describes. Runs in the API process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, Field

from sensor.api.schemas import Item, MatchItem
from sensor.evidence.conversation_object import conversation_object, packet_object, passage_object
from sensor.evidence.stored import StoredMatch
from sensor.evidence.stored_conversation import PacketPlace, StoredConversation
from sensor.evidence.transcript import Passage

_DIRECTION = "From the client to the server, or back"


class MatchedRule(BaseModel):
    """A rule that matched in a conversation."""

    rule_class: str = Field(alias="class", examples=["threat"])
    rule: int = Field(examples=[50001])
    type: str
    name: str


class ConversationItem(BaseModel):
    """A conversation: the packets of a flow that are kept because of a match."""

    conversation: int = Field(
        description="Its number: the time of its first match, or a little later", examples=[1687074364968817]
    )
    devid: int = Field(examples=[3])
    first_us: int = Field(description="Time of its first packet, microseconds since the epoch")
    first: str = Field(description="The same time, RFC 3339", examples=["2023-06-18T07:46:04.968817Z"])
    last_us: int = Field(description="Time of its last packet")
    last: str
    protocol: str = Field(examples=["TCP"])
    sip: str = Field(description="Address of the client: the sender of its first packet")
    sport: int = Field(description="0 if the protocol has no ports")
    dip: str = Field(description="Address of the server")
    dport: int
    vlan: list[int] = Field(description="VLAN numbers, outer tag first")
    community_id: str | None = Field(
        description="Community ID 1.0 of its flow, seed 0; null if it has none",
        examples=["1:wh/NJ9XUH/PwR7vPwa0uSSZZw7c="],
    )
    packets_to_server: int
    bytes_to_server: int = Field(description="Bytes of these frames on the wire")
    packets_to_client: int
    bytes_to_client: int
    ended: Literal["open", "fin", "rst", "silence", "limit", "interrupted"] | None = Field(
        description="The reason why no more packets were kept; null if it is not known"
    )
    complete: bool | None = Field(
        description="True if it has all packets of the flow; null if that is not known"
    )
    missing: list[Literal["beginning", "cut_off", "space", "lost", "history_off", "snaplen"]] | None = Field(
        description="What it lacks, by the reason; null if that is not known: the index was rebuilt"
    )
    why_incomplete: list[str] = Field(description="The reasons in words why it is not known to be complete")
    deleted: bool = Field(description="True if packets of it were deleted since")
    lost: int | None = Field(description="Frames of any flow that the sensor lost while it ran")
    matches: list[MatchedRule] = Field(description="The rules that matched, in the order in which they did")

    @classmethod
    def of(cls, conversation: StoredConversation) -> ConversationItem:
        """Return the answer for a conversation."""
        return cls(**conversation_object(conversation))


class ConversationList(BaseModel):
    """A page of conversations, newest first."""

    conversations: list[ConversationItem]
    cursor: str | None = Field(description="For the next page; null at the end")


class ConversationPacket(Item):
    """A packet, and its place in a conversation."""

    direction: Literal["to_server", "to_client"] = Field(description=_DIRECTION)
    after_us: int = Field(description="Microseconds since the packet before; 0 for the first")
    payload_bytes: int = Field(description="Length of its payload")

    @classmethod
    def at(cls, place: PacketPlace, matches: Iterable[StoredMatch]) -> ConversationPacket:
        """Return the answer for a packet and its matches."""
        return cls(**packet_object(place, matches))


class ConversationPackets(BaseModel):
    """The packets of a conversation, in the order of time."""

    packets: list[ConversationPacket]
    cut: bool = Field(description="True if there are more than `limit`")


class PassagePart(BaseModel):
    """A part of a payload; matches start and end only between parts."""

    text: str = Field(
        description="UTF-8; other bytes, and characters that show nothing, are escapes such as `\\xff`"
    )
    matches: list[int] = Field(description="Its matches, as positions in the list of the packet")


class TranscriptPassage(BaseModel):
    """The payload of one packet as text."""

    key: str = Field(description="Key of the packet", examples=["3-20230618-1234567890"])
    time_us: int
    direction: Literal["to_server", "to_client"] = Field(description=_DIRECTION)
    role: Literal["hit", "before", "after"]
    payload_bytes: int = Field(description="Length of the payload")
    parts: list[PassagePart] | None = Field(
        description="The text, in parts; null if the packet's file is gone"
    )
    cut: bool = Field(description="True if the end of the payload is left out")
    matches: list[MatchItem] = Field(description="Rules that matched, with offsets in the payload")

    @classmethod
    def of(cls, passage: Passage) -> TranscriptPassage:
        """Return the answer for a packet with payload."""
        return cls(**passage_object(passage))


class Transcript(BaseModel):
    """Request and response: the packets with payload, in the order of time."""

    passages: list[TranscriptPassage]
    cut: bool = Field(description="True if payload beyond `limit_bytes` is left out")
