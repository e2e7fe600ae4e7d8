"""The address of the client behind reverse proxies. Runs in the API process."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Network, IPv6Network

from sensor.process.listener import address_of, is_in

HEADERS = ("x-forwarded-for", "forwarded", "via")
"""Headers that proxies add: a request that has one does not come from a user of this host."""


def client_address(
    peer: str, forwarded: Sequence[str], proxies: Collection[IPv4Network | IPv6Network]
) -> str:
    """Return the address of the client.

    A proxy appends the address it was asked from to ``X-Forwarded-For``, so the list is read from its end, as
    long as the address before is that of a trusted proxy: clients can write there what they like.
    """
    address = str(address_of(peer))
    named = ",".join(forwarded).split(",")
    while named and is_in(address, proxies):
        try:
            address = str(address_of(named.pop().strip().removeprefix("[").removesuffix("]")))
        except ValueError:
            break
    return address
