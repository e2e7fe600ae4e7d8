"""Responses, as models that OpenAPI describes. Runs in the API process."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Literal

from pydantic import BaseModel, Field

from sensor import DISTRIBUTION
from sensor.dissect import HeaderLayer, dissect
from sensor.evidence.holds import HoldEntry
from sensor.evidence.json_object import stored_object
from sensor.evidence.pcap import Record, record_header
from sensor.evidence.search import Stored, StoredMatch
from sensor.model import LinkType
from sensor.protocols import protocol_name
from sensor.text import printable

VERSION = version(DISTRIBUTION)


class _Answer(BaseModel):
    """A JSON object."""


class SeedEvidence(_Answer):
    """A packet in the format of ly_probe, field for field."""

    devid: int = Field(examples=[3])
    time_sec: int = Field(examples=[1687074364])
    time_usec: int = Field(examples=[968817])
    caplen: int = Field(description="Bytes kept of the frame")
    pktlen: int = Field(description="Bytes of the frame on the wire")
    smac: str = Field(description="Empty if the link type has no addresses", examples=["B0-4F-13-E7-43-2E"])
    dmac: str = Field(examples=["00-26-88-32-FA-CB"])
    sip: str = Field(examples=["10.10.1.87"])
    sport: int = Field(description="0 if the protocol has no ports", examples=[62766])
    dip: str = Field(examples=["10.10.10.21"])
    dport: int = Field(examples=[21])
    protocol: str = Field(examples=["TCP"])
    payload: str = Field(description="Transport payload, with a dot for every byte outside 0x20-0x7e")
    pkthdr: str = Field(description="16-byte header of the pcap record, hexadecimal")
    packet: str = Field(description="The captured frame, hexadecimal")

    @classmethod
    def of(cls, stored: Stored, record: Record) -> SeedEvidence:
        """Return the answer for a packet."""
        seconds, microseconds = divmod(stored.time_us, 1_000_000)
        frame, five_tuple = record.frame, stored.five_tuple
        macs = frame if stored.linktype == LinkType.ETHERNET else b""
        return cls(
            devid=stored.devid,
            time_sec=seconds,
            time_usec=microseconds,
            caplen=stored.caplen,
            pktlen=stored.wirelen,
            smac=macs[6:12].hex("-").upper(),
            dmac=macs[:6].hex("-").upper(),
            sip=five_tuple.source_text,
            sport=five_tuple.sport,
            dip=five_tuple.destination_text,
            dport=five_tuple.dport,
            protocol=protocol_name(five_tuple.protocol),
            payload=printable(frame[stored.payload_start : stored.payload_end]),
            pkthdr=record_header(record.time_us, record.caplen, record.wirelen).hex(),
            packet=frame.hex(),
        )


class MatchItem(_Answer):
    """A rule and where in the payload it matched."""

    rule_class: str = Field(alias="class", examples=["threat"])
    rule: int = Field(examples=[50001])
    type: str
    name: str
    version: str | None
    vendor: str | None
    os: str | None
    start: int | None = Field(
        description="Offset of the match in the payload; null if it is unknown: the packet's file is gone, or"
        " locating the match would cost too much"
    )
    end: int | None


class Item(_Answer):
    """An evidence item: a stored packet and its matches."""

    key: str = Field(description="Permanent name of this item", examples=["3-20230618-1234567890"])
    devid: int = Field(examples=[3])
    time_us: int = Field(description="Microseconds since the epoch", examples=[1687074364968817])
    time: str = Field(description="The same time, RFC 3339", examples=["2023-06-18T07:46:04.968817Z"])
    caplen: int = Field(description="Bytes kept of the frame")
    wirelen: int = Field(description="Bytes of the frame on the wire")
    protocol: str = Field(examples=["TCP"])
    sip: str
    sport: int = Field(description="0 if the protocol has no ports")
    dip: str
    dport: int
    vlan: list[int] = Field(description="VLAN numbers, outer tag first")
    interface: str = Field(description="Interface that captured the packet")
    file: str = Field(description="Name of the evidence file", examples=["202306180745.pcap"])
    offset: int = Field(description="Offset of the record in that file, bytes")
    matches: list[MatchItem] = Field(description="Rules that matched it; empty if it was kept for its flow")
    incomplete: bool = Field(
        description="True if the search was cut for its cost, so that more rules may match"
    )
    role: Literal["hit", "before", "after"] = Field(
        description="`hit`: it matched, or is kept for its flow; `before` and `after`: it is kept because"
        " another packet of its flow matched"
    )
    conversation: int | None = Field(
        description="Number of the conversation that it is part of; null if it is in none",
        examples=[1687074364968817],
    )

    @classmethod
    def of(cls, stored: Stored, matches: Iterable[StoredMatch]) -> Item:
        """Return the answer for an item and its matches."""
        return cls(**stored_object(stored, matches))


class LayerField(_Answer):
    """A field of a header, with its offsets in the frame."""

    name: str
    value: str
    start: int
    end: int


class Layer(_Answer):
    """A header or data, with its offsets in the frame."""

    name: str
    start: int
    end: int
    fields: list[LayerField]

    @classmethod
    def of(cls, layer: HeaderLayer) -> Layer:
        """Return the answer for a dissected layer."""
        fields = [LayerField(name=f.name, value=f.value, start=f.start, end=f.end) for f in layer.fields]
        return cls(name=layer.name, start=layer.start, end=layer.end, fields=fields)


class Detail(Item):
    """An evidence item with its bytes, decoded."""

    payload_start: int = Field(description="Offset of the payload in the frame")
    payload_end: int
    frame: str = Field(description="The whole frame, lower-case hexadecimal")
    layers: list[Layer] = Field(description="Layers that cover the whole frame, outermost first")

    @classmethod
    def with_frame(cls, stored: Stored, frame: bytes) -> Detail:
        """Return the answer for an item and its frame."""
        return cls(
            **stored_object(stored, stored.matches(frame)),
            payload_start=stored.payload_start,
            payload_end=stored.payload_end,
            frame=frame.hex(),
            layers=[Layer.of(layer) for layer in dissect(frame, stored.linktype)],
        )


class ItemPage(_Answer):
    """A page of search results, newest first."""

    items: list[Item]
    cursor: str | None = Field(
        description="For the next page; null at the end. A page may be short or empty before the end"
    )


class Bin(_Answer):
    """Number of evidence items in an interval."""

    time_us: int = Field(description="Start of the interval")
    total: int
    classes: dict[str, int] = Field(description="Items matched by each class; an item may count in several")


class Histogram(_Answer):
    """Evidence over time; from the oldest to the newest item unless the query limits the range."""

    since_us: int
    until_us: int
    bin_us: int = Field(description="Length of a bin, microseconds")
    bins: list[Bin]


class RuleItem(_Answer):
    """A rule as in its rule file."""

    rule: int
    rule_class: str = Field(alias="class")
    type: str
    name: str
    regex: str
    protocol: str | None
    port: int | None
    is_http: int | None
    part: str | None
    decode: str | None
    version: str | None
    vendor: str | None
    os: str | None
    desc: str | None
    context: bool | None


class Rules(_Answer):
    """The rules in the rule files."""

    digest: str = Field(description="SHA-256 of the rule files")
    rules: list[RuleItem]


class Device(_Answer):
    """Evidence kept of one device."""

    devid: int
    pieces: int
    bytes: int = Field(description="Size of the evidence files")
    oldest_us: int | None
    newest_us: int | None


class IndexState(_Answer):
    """Progress of the index; evidence not indexed yet is not found."""

    state: str = Field(description="`ok` or `rebuilding`", examples=["ok"])
    done: int
    total: int


class Disk(_Answer):
    """The file system of the evidence directory."""

    free_bytes: int
    total_bytes: int


class Status(_Answer):
    """Evidence kept, state of the index, and disk space."""

    version: str
    devices: list[Device]
    index: IndexState
    disk: Disk


class HoldFiles(_Answer):
    """The files of a hold in the directory of one device."""

    devid: int = Field(examples=[3])
    files: int = Field(description="Number of files that are kept", examples=[12])


class Hold(_Answer):
    """Evidence that no limit deletes until it is released."""

    hold: str = Field(description="Name of the hold", examples=["20260105-4f2a91"])
    time: str = Field(description="When it was made, UTC", examples=["2026-01-05T10:00:00Z"])
    by: str = Field(description="Who made it", examples=["token ann", "root"])
    reason: str = Field(examples=["case 17"])
    query: str = Field(description="The filters; empty: all evidence", examples=["rule_class=threat"])
    devices: list[HoldFiles]

    @classmethod
    def of(cls, entry: HoldEntry) -> Hold:
        """Return the answer for an entry of the journal, without its devices."""
        return cls(
            hold=entry.hold, time=entry.time, by=entry.by, reason=entry.reason, query=entry.query, devices=[]
        )


class HoldCreated(Hold):
    """A new hold."""

    deleted: list[str] = Field(description="Names of files that were deleted before they were held")


class Holds(_Answer):
    """The holds in force."""

    holds: list[Hold]
    may_change: bool = Field(description="True if this client may hold and release evidence")
