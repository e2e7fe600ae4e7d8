"""Query parameters, as models that the router validates. Runs in the API process."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Self

from fastapi import HTTPException, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sensor.api.hold_keeper import REASON_MAX
from sensor.evidence.export import Container
from sensor.evidence.search import Query
from sensor.model import RuleClass
from sensor.protocols import TRANSPORT_NAMES, protocol_number

TIME_MAX_US = (1 << 32) * 1_000_000 - 1
"""Last microsecond that a pcap file can hold, in the year 2106."""
_DEVID_MAX = 10**18 - 1


def _check_time(value: int) -> int:
    if value > TIME_MAX_US:
        raise ValueError("is after the year 2106; give microseconds since the epoch, not nanoseconds")
    return value


def _check_network(value: str) -> str:
    try:
        ip_network(value, strict=False)
    except ValueError:
        raise ValueError("is not an address or network, like 192.0.2.1 or 2001:db8::/32") from None
    return value


def _check_protocol(value: str) -> str:
    if protocol_number(value) is None:
        names = ", ".join(TRANSPORT_NAMES.values())
        raise ValueError(f"is not a protocol: give {names}, or a number up to 255")
    return value


TimeUs = Annotated[int, Field(ge=0, examples=[1687074364968817]), AfterValidator(_check_time)]
Devid = Annotated[int, Field(ge=0, le=_DEVID_MAX, examples=[3])]
Port = Annotated[int, Field(ge=0, le=65535)]
Network = Annotated[str, Field(max_length=64), AfterValidator(_check_network)]
Protocol = Annotated[str, Field(max_length=16, examples=["TCP"]), AfterValidator(_check_protocol)]
Text = Annotated[str, Field(min_length=1, max_length=256)]
Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True),
    Field(min_length=1, max_length=REASON_MAX, description="Why; the journal of holds keeps it"),
]
Cursor = Annotated[str, Field(max_length=100)]
_CURSOR_USE = "`cursor` of the previous answer, for the next page"
RuleId = Annotated[int, Field(ge=0, le=(1 << 63) - 1)]


class MatchFilters(BaseModel):
    """Filters of what the index knows; omitted ones restrict nothing."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    since_us: TimeUs | None = Field(None, description="From this time on, microseconds since the epoch")
    until_us: TimeUs | None = Field(None, description="Before this time, microseconds since the epoch")
    devid: Devid | None = Field(None, description="Only this device")
    network: Network | None = Field(None, description="Address or network of either side")
    port: Port | None = Field(None, description="Port of either side")
    protocol: Protocol | None = Field(None, description="Transport protocol, by name or IANA number")
    rule_class: RuleClass | None = Field(None, alias="class", description="Matched by a rule of this class")
    rule: RuleId | None = Field(None, description="Matched by the rule with this id")

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.since_us is not None and self.until_us is not None and self.until_us <= self.since_us:
            raise ValueError("until_us must be after since_us")
        return self

    def query(self) -> Query:
        """Return these parameters as a query to the index."""
        return Query(
            since_us=self.since_us,
            until_us=self.until_us,
            devid=self.devid,
            network=_network(self.network),
            port=self.port,
            protocol=protocol_number(self.protocol) if self.protocol is not None else None,
            rule_class=self.rule_class,
            rule_id=self.rule,
        )


class Filters(MatchFilters):
    """Filters of evidence; omitted ones restrict nothing."""

    text: Text | None = Field(
        None, description="Text anywhere in the payload, as it is or URL-decoded, in upper or lower case"
    )

    def query(self) -> Query:
        """Return these parameters as a query to the index."""
        return replace(super().query(), text=self.text.encode() if self.text else None)


class SearchParameters(Filters):
    """Filters, and the page of their results."""

    limit: int = Field(50, ge=1, le=500, description="Most items in the answer")
    cursor: Cursor | None = Field(None, description=_CURSOR_USE)


class HoldParameters(Filters):
    """Filters, and why the evidence is held."""

    reason: Reason


class ReleaseParameters(BaseModel):
    """Why a hold is released."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason


class HistogramParameters(Filters):
    """Filters, and the number of bins for their time range."""

    bins: int = Field(120, ge=1, le=500, description="Number of bins")


class ConversationsParameters(MatchFilters):
    """Filters, and the page of the list of conversations."""

    limit: int = Field(50, ge=1, le=100, description="Most conversations in the answer")
    cursor: Cursor | None = Field(None, description=_CURSOR_USE)


class ConversationParameters(BaseModel):
    """The device of one conversation."""

    model_config = ConfigDict(extra="forbid")

    devid: Devid | None = Field(
        None, description="Its device; needed only if several devices have one of this name"
    )


class PacketsParameters(ConversationParameters):
    """The device of one conversation, and how many of its packets are asked for."""

    limit: int = Field(1000, ge=1, le=10_000, description="Most packets in the answer")


class TranscriptParameters(ConversationParameters):
    """The device of one conversation, and how much of its payloads is asked for."""

    limit_bytes: int = Field(1 << 18, ge=1, le=1 << 20, description="Most bytes of payload in the answer")


class ExportParameters(ConversationParameters):
    """The device of one conversation, and the format of the file."""

    container: Container = Field("pcapng", alias="format", description="Format of the file")


class LookupParameters(BaseModel):
    """The time to look up, as one number or two, and further filters."""

    model_config = ConfigDict(extra="forbid")

    time: TimeUs | None = Field(None, description="Microseconds since the epoch")
    time_sec: Annotated[int, Field(ge=0, lt=1 << 32)] | None = Field(
        None, description="Seconds; with `time_usec`, instead of `time`"
    )
    time_usec: Annotated[int, Field(ge=0, lt=1_000_000)] | None = Field(
        None, description="Microseconds of the second; with `time_sec`, instead of `time`"
    )
    devid: Devid | None = Field(None, description="Device number; all devices if omitted")
    ip: Network | None = Field(None, description="Address or network of either side")
    port: Port | None = Field(None, description="Port of either side")
    download: bool = Field(False, description="Answer with the pcap file `evidence.pcap` instead of JSON")

    @model_validator(mode="after")
    def _check_time_given(self) -> Self:
        both = self.time_sec is not None and self.time_usec is not None
        either = self.time_sec is not None or self.time_usec is not None
        if (self.time is None) != both or (self.time is not None and either):
            raise ValueError("give time (microseconds), or time_sec and time_usec")
        return self

    def query(self) -> Query:
        """Return these parameters as a query to the index."""
        time_us = self.time
        if time_us is None:
            time_us = (self.time_sec or 0) * 1_000_000 + (self.time_usec or 0)
        return Query(
            since_us=time_us,
            until_us=time_us + 1,
            devid=self.devid,
            network=_network(self.ip),
            port=self.port,
        )


def _network(text: str | None) -> IPv4Network | IPv6Network | None:
    return ip_network(text, strict=False) if text is not None else None


async def refuse_repeats(request: Request) -> None:
    """Refuse a repeated parameter: which value counts would be unclear."""
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) != len(set(names)):
        repeated = next(name for name in names if names.count(name) > 1)
        raise HTTPException(422, f"{repeated[:50]}: given more than once")
