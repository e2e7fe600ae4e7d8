"""Flags that select evidence, the same for every command."""

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

_PROTOCOLS = ", ".join(TRANSPORT_NAMES.values()).lower()
_LATEST_US = (1 << 32) * 1_000_000


def limit_option(what: str) -> Callable[[Any], Any]:
    """Return the flag for the largest number of things to list, named as in the help."""
    return click.option(
        "--limit",
        type=click.IntRange(1),
        default=50,
        show_default=True,
        metavar="NUMBER",
        help=f"Largest number of {what} to list.",
    )


def time_us(text: str) -> int:
    """Parse a time and return it as microseconds since the epoch.

    The text is that number, or an ISO 8601 time, in UTC if it has no offset.

    Raises:
        click.BadParameter: the text is neither.
    """
    if re.fullmatch("[0-9]{1,18}", text, re.ASCII):
        return min(int(text), _LATEST_US)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a time; write it as 2023-06-18T07:47:23.000123, or in microseconds since 1970"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000 + since_epoch.microseconds


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not an IP address or network") from error


def _protocol(text: str) -> int:
    number = protocol_number(text)
    if number is None:
        raise click.BadParameter(f"{text!r} is not a protocol; use {_PROTOCOLS}, or a number up to 255")
    return number


_FILTERS = (
    click.option("--since", "since_us", type=time_us, metavar="TIME", help="Only packets from this time on."),
    click.option("--until", "until_us", type=time_us, metavar="TIME", help="Only packets before this time."),
    click.option(
        "--devid",
        type=click.IntRange(0),
        metavar="NUMBER",
        help="Only this device.  [default: all devices]",
    ),
    click.option(
        "--network",
        type=_network,
        metavar="ADDRESS[/PREFIX]",
        help="Only packets from or to this address or network.",
    ),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        metavar="NUMBER",
        help="Only packets from or to this port.",
    ),
    click.option(
        "--protocol",
        type=_protocol,
        metavar="NAME|NUMBER",
        help=f"Only packets of this protocol: {_PROTOCOLS}, or an IP protocol number.",
    ),
    click.option(
        "--class",
        "rule_class",
        type=click.Choice(RULE_CLASSES),
        help="Only packets that match a rule of this class.",
    ),
    click.option("--rule", "rule_id", type=int, metavar="ID", help="Only packets that match this rule."),
    click.option(
        "--text",
        type=payload,
        metavar="TEXT|@FILE",
        help="Only packets with this text in the payload, also URL-encoded, ignoring case. Escapes are those "
        "of `sensor rules test`.",
    ),
)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags to a command, which receives them as ``query``."""

    def with_query(**arguments: Any) -> Any:
        chosen = {name: arguments.pop(name) for name in Query.__dataclass_fields__}
        return command(query=Query(**chosen), **arguments)

    with_query.__doc__ = command.__doc__
    with_query.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    wrapped: Callable[..., Any] = with_query
    for option in reversed(_FILTERS):
        wrapped = option(wrapped)
    return wrapped
