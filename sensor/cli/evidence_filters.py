"""Flags that say which evidence is meant, the same for every command."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import click

from sensor.cli.payload_argument import payload
from sensor.evidence.search import Query
from sensor.model import RULE_CLASSES
from sensor.protocols import TRANSPORT_NAMES, protocol_number

_LATEST_US = (1 << 32) * 1_000_000


def time_us(text: str) -> int:
    """Return microseconds since the epoch: TEXT is that number, or ISO 8601, UTC unless it says otherwise.

    Raises ``click.BadParameter``.
    """
    if re.fullmatch("[0-9]{1,18}", text, re.ASCII):
        return min(int(text), _LATEST_US)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is no time; write it like 2023-06-18T07:47:23.000123, or in microseconds since 1970"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000 + since_epoch.microseconds


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no address and no network") from error


def _protocol(text: str) -> int:
    number = protocol_number(text)
    if number is None:
        names = ", ".join(TRANSPORT_NAMES.values()).lower()
        raise click.BadParameter(f"{text!r} is not a protocol: give {names}, or a number up to 255")
    return number


_FILTERS = (
    click.option("--since", "since_us", type=time_us, metavar="TIME", help="Not older than this."),
    click.option("--until", "until_us", type=time_us, metavar="TIME", help="Older than this."),
    click.option("--devid", type=click.IntRange(0), help="Of this device.  [any]"),
    click.option("--network", type=_network, metavar="ADDRESS[/PREFIX]", help="From or to there."),
    click.option("--port", type=click.IntRange(0, 65535), help="From or to this port."),
    click.option("--protocol", type=_protocol, help="Name or number."),
    click.option("--class", "rule_class", type=click.Choice(RULE_CLASSES), help="A rule of this class hit."),
    click.option("--rule", "rule_id", type=int, metavar="ID", help="This rule hit."),
    click.option("--text", type=payload, help="In the payload, in either case; escapes as for rules test."),
)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags to a command, which gets them as ``query``."""

    def with_query(**arguments: Any) -> Any:
        chosen = {name: arguments.pop(name) for name in Query.__dataclass_fields__}
        return command(query=Query(**chosen), **arguments)

    with_query.__doc__ = command.__doc__
    with_query.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    wrapped: Callable[..., Any] = with_query
    for option in reversed(_FILTERS):
        wrapped = option(wrapped)
    return wrapped
