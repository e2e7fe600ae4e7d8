"""What is answered: models that also describe it in OpenAPI; runs in the process of the API."""

from __future__ import annotations

from importlib.metadata import version

from pydantic import BaseModel, Field

from sensor.dissect import HeaderLayer, dissect
from sensor.evidence.json_object import stored_object
from sensor.evidence.pcap import Record, record_header
from sensor.evidence.search import Stored
from sensor.model import LinkType
from sensor.protocols import protocol_name
from sensor.text import printable

VERSION = version("sensor")


class _Answer(BaseModel):
    """A JSON object."""


class SeedEvidence(_Answer):
    """A packet as the lookup by microsecond gives it, field for field what ly_probe gives."""

    devid: int = Field(examples=[3])
    time_sec: int = Field(examples=[1687074364])
    time_usec: int = Field(examples=[968817])
    caplen: int = Field(description="Bytes kept of the frame")
    pktlen: int = Field(description="Bytes of the frame on the wire")
    smac: str = Field(description="Empty where the link has no addresses", examples=["B0-4F-13-E7-43-2E"])
    dmac: str = Field(examples=["00-26-88-32-FA-CB"])
    sip: str = Field(examples=["10.10.1.87"])
    sport: int = Field(description="0 where the protocol has none", examples=[62766])
    dip: str = Field(examples=["10.10.10.21"])
    dport: int = Field(examples=[21])
    protocol: str = Field(examples=["TCP"])
    payload: str = Field(description="Transport payload, every byte outside 0x20-0x7e shown as a dot")
    pkthdr: str = Field(description="The 16-byte header of the pcap record, hexadecimal")
    packet: str = Field(description="The whole captured frame, hexadecimal")

    @classmethod
    def of(cls, stored: Stored, record: Record) -> SeedEvidence:
        """Describe a packet."""
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
    """A rule, and where in the payload it hit."""

    rule_class: str = Field(alias="class", examples=["threat"])
    rule: int = Field(examples=[50001])
    type: str
    name: str
    version: str | None
    vendor: str | None
    os: str | None
    start: int = Field(description="Offset of the hit in the payload")
    end: int


class Item(_Answer):
    """A piece of evidence: a packet that was kept, and why."""

    key: str = Field(description="Names this piece for good", examples=["3-20230618-1234567890"])
    devid: int = Field(examples=[3])
    time_us: int = Field(description="Microseconds since the epoch", examples=[1687074364968817])
    time: str = Field(description="The same, RFC 3339", examples=["2023-06-18T07:46:04.968817Z"])
    caplen: int = Field(description="Bytes kept of the frame")
    wirelen: int = Field(description="Bytes of the frame on the wire")
    protocol: str = Field(examples=["TCP"])
    sip: str
    sport: int = Field(description="0 where the protocol has none")
    dip: str
    dport: int
    vlan: list[int] = Field(description="Number of each VLAN tag, outer first")
    interface: str = Field(description="Where it was captured")
    file: str = Field(description="Name of its evidence file", examples=["202306180745.pcap"])
    offset: int = Field(description="Where its record starts in that file, bytes")
    matches: list[MatchItem] = Field(description="Rules that hit it; none: it was kept for its flow")

    @classmethod
    def of(cls, stored: Stored) -> Item:
        """Describe a piece of evidence by what the index knows."""
        return cls(**stored_object(stored))


class LayerField(_Answer):
    """A field of a header; offsets in the frame."""

    name: str
    value: str
    start: int
    end: int


class Layer(_Answer):
    """A header, or data; offsets in the frame."""

    name: str
    start: int
    end: int
    fields: list[LayerField]

    @classmethod
    def of(cls, layer: HeaderLayer) -> Layer:
        """Describe a decoded layer."""
        fields = [LayerField(name=f.name, value=f.value, start=f.start, end=f.end) for f in layer.fields]
        return cls(name=layer.name, start=layer.start, end=layer.end, fields=fields)


class Detail(Item):
    """A piece of evidence with all its bytes, decoded."""

    payload_start: int = Field(description="Where the payload starts in the frame")
    payload_end: int
    frame: str = Field(description="The whole frame, lower-case hexadecimal")
    layers: list[Layer] = Field(description="Outermost first; together they cover the frame")

    @classmethod
    def with_frame(cls, stored: Stored, frame: bytes) -> Detail:
        """Describe a piece of evidence with its bytes."""
        return cls(
            **stored_object(stored),
            payload_start=stored.payload_start,
            payload_end=stored.payload_end,
            frame=frame.hex(),
            layers=[Layer.of(layer) for layer in dissect(frame, stored.linktype)],
        )


class ItemPage(_Answer):
    """A part of what was found, the newest first."""

    items: list[Item]
    cursor: str | None = Field(description="Where to go on; null at the end. A page may be short, even empty")


class Bin(_Answer):
    """Pieces of evidence in a stretch of time."""

    time_us: int = Field(description="Where the stretch begins")
    total: int
    classes: dict[str, int] = Field(description="Pieces hit by each class; one piece may count in several")


class Histogram(_Answer):
    """Evidence over time; without a span in the question, from the oldest to the newest."""

    since_us: int
    until_us: int
    bin_us: int = Field(description="Length of a bin, microseconds")
    bins: list[Bin]


class RuleItem(_Answer):
    """A rule as its file gives it."""

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


class Rules(_Answer):
    """The rules in the rule files."""

    digest: str = Field(description="SHA-256 of the files: the same rules have the same digest")
    rules: list[RuleItem]


class Device(_Answer):
    """What is kept of a device."""

    devid: int
    pieces: int
    bytes: int = Field(description="Size of its evidence files")
    oldest_us: int | None
    newest_us: int | None


class IndexState(_Answer):
    """How far the index is: what is not in it yet is not found."""

    state: str = Field(description="`ok` or `rebuilding`", examples=["ok"])
    done: int
    total: int


class Disk(_Answer):
    """The file system of the evidence."""

    free_bytes: int
    total_bytes: int


class Status(_Answer):
    """What is kept, and how the sensor's evidence is."""

    version: str
    devices: list[Device]
    index: IndexState
    disk: Disk
