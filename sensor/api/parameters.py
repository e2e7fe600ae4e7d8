"""What may be asked, as models that the router checks; runs in the process of the API."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Self

from fastapi import HTTPException, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sensor.evidence.search import Query
from sensor.model import RuleClass
from sensor.protocols import TRANSPORT_NAMES, protocol_number

TIME_MAX_US = (1 << 32) * 1_000_000 - 1
"""The last microsecond that a pcap file can hold: in the year 2106."""
_DEVID_MAX = 10**18 - 1


def _check_time(value: int) -> int:
    if value > TIME_MAX_US:
        raise ValueError("is behind the year 2106; times are microseconds since the epoch, not nanoseconds")
    return value


def _check_network(value: str) -> str:
    try:
        ip_network(value, strict=False)
    except ValueError:
        raise ValueError("is no address and no network, like 192.0.2.1 or 2001:db8::/32") from None
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
RuleId = Annotated[int, Field(ge=0, le=(1 << 63) - 1)]


class Filters(BaseModel):
    """Which evidence is asked for; what is left out restricts nothing."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    since_us: TimeUs | None = Field(None, description="From this microsecond since the epoch on")
    until_us: TimeUs | None = Field(None, description="Up to, not including, this microsecond")
    devid: Devid | None = Field(None, description="Only of this device")
    network: Network | None = Field(None, description="Address or network, of either side")
    port: Port | None = Field(None, description="Port, of either side")
    protocol: Protocol | None = Field(None, description="Transport, by name or by IANA number")
    rule_class: RuleClass | None = Field(None, alias="class", description="Hit by a rule of this class")
    rule: RuleId | None = Field(None, description="Hit by the rule with this id")
    text: Text | None = Field(None, description="In the payload, anywhere; letters match in either case")

    @model_validator(mode="after")
    def _is_a_span(self) -> Self:
        if self.since_us is not None and self.until_us is not None and self.until_us <= self.since_us:
            raise ValueError("until_us has to be behind since_us")
        return self

    def query(self) -> Query:
        """Return the same as a question to the index."""
        return Query(
            since_us=self.since_us,
            until_us=self.until_us,
            devid=self.devid,
            network=_network(self.network),
            port=self.port,
            protocol=protocol_number(self.protocol) if self.protocol is not None else None,
            rule_class=self.rule_class,
            rule_id=self.rule,
            text=self.text.encode() if self.text else None,
        )


class SearchParameters(Filters):
    """Filters, and which part of what they find."""

    limit: int = Field(50, ge=1, le=500, description="Most pieces in the answer")
    cursor: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="`cursor` of the answer to go on from"
    )


class HistogramParameters(Filters):
    """Filters, and into how many bins their span is cut."""

    bins: int = Field(120, ge=1, le=500, description="Number of bins")


class LookupParameters(BaseModel):
    """The moment that is looked up, as one number or as two, and what else has to be so."""

    model_config = ConfigDict(extra="forbid")

    time: TimeUs | None = Field(None, description="Microseconds since the epoch")
    time_sec: Annotated[int, Field(ge=0, lt=1 << 32)] | None = Field(
        None, description="In place of `time`, with `time_usec`: seconds"
    )
    time_usec: Annotated[int, Field(ge=0, lt=1_000_000)] | None = Field(
        None, description="In place of `time`, with `time_sec`: microseconds of the second"
    )
    devid: Devid | None = Field(None, description="Device number; left out: every device this host knows")
    ip: Network | None = Field(None, description="Address, of either side")
    port: Port | None = Field(None, description="Port, of either side")
    download: bool = Field(False, description="Answer a pcap file named `evidence.pcap` instead")

    @model_validator(mode="after")
    def _names_one_moment(self) -> Self:
        both = self.time_sec is not None and self.time_usec is not None
        either = self.time_sec is not None or self.time_usec is not None
        if (self.time is None) != both or (self.time is not None and either):
            raise ValueError("name the moment: time (microseconds), or time_sec and time_usec")
        return self

    def query(self) -> Query:
        """Return the same as a question to the index."""
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
    """Refuse a parameter that stands twice: it would not be clear which counts."""
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise HTTPException(422, f"{twice[:50]}: stands more than once")
