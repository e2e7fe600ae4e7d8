"""Ordinary conversations of an office network, without any threat. Runs in the traffic generator.

Every builder is given a source of randomness and the start, and returns a finished conversation.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_address
from random import Random

from sensor.bench.traffic import frames, messages
from sensor.bench.traffic.conversations import Conversation, TcpConversation, UdpConversation
from sensor.bench.traffic.frames import Host
from sensor.bench.traffic.hosts import BROADCAST_MAC, ROUTER_MAC, desk, remote, server
from sensor.protocols import ICMP, ICMPV6

Builder = Callable[[Random, int], Conversation]

SITES = (
    "news.example",
    "shop.example",
    "maps.example",
    "mail.example",
    "cdn.example.net",
    "docs.example.org",
)
BROWSERS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/126.0.0.0 Safari/537.36",
    "User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/17.5 Safari/605.1.15",
)
KEEP_ALIVE = "Connection: keep-alive"
PAGES = (
    ("/", "text/html; charset=utf-8"),
    ("/css/site.css?v=31", "text/css"),
    ("/js/app.3f9c1.js", "text/javascript"),
    ("/files/update.bin", "application/octet-stream"),
    ("/api/articles?page=2&sort=date", "application/json"),
    ("/search?q=train+timetable", "text/html; charset=utf-8"),
)
PROSE = (
    "the quick report on union members, select committee and sleep research; a table order, a drop in prices "
    "a script for a play from where we were, and or not into values: an update on passing through "
)
OFFICE_VLANS = (110, 120)
PROVIDER_VLANS = (2001, 110)


def dns(rng: Random, start_us: int) -> Conversation:
    """Ask for an address over IPv4 or IPv6, sometimes on a VLAN."""
    version = rng.choice((4, 4, 6))
    vlans = rng.choice(((), (), (OFFICE_VLANS[0],)))
    talk = UdpConversation(rng, start_us, desk(rng, version), server(53, version), 53, vlans)
    question, answer = messages.dns_messages(rng, rng.choice(SITES))
    talk.send(talk.client, question)
    talk.send(talk.server, answer)
    return talk


def long_dns(rng: Random, start_us: int, version: int) -> Conversation:
    """Get a TXT answer of several kilobytes in IPv4 or IPv6 fragments."""
    talk = UdpConversation(rng, start_us, desk(rng, version), server(53, version), 53)
    question, answer = messages.dns_messages(rng, "_keys.mail.example", texts=rng.randint(14, 20))
    talk.send(talk.client, question)
    talk.send(talk.server, answer)
    return talk


def browsing(rng: Random, start_us: int) -> Conversation:
    """Fetch some pages over one HTTP/1.1 connection, sometimes with one or two VLAN tags."""
    version = rng.choice((4, 4, 4, 6))
    vlans = rng.choice(((), (), (rng.choice(OFFICE_VLANS),), PROVIDER_VLANS))
    talk = TcpConversation(rng, start_us, desk(rng, version), remote(rng, version), 80, vlans)
    site, browser = rng.choice(SITES), rng.choice(BROWSERS)
    for path, kind in rng.sample(PAGES, rng.randint(2, 5)):
        request = messages.http_request(f"GET {path}", site, browser, "Accept: */*", KEEP_ALIVE)
        talk.send(talk.client, request)
        body = _body(rng, kind)
        talk.send(
            talk.server, messages.http_response("200 OK", f"Content-Type: {kind}", KEEP_ALIVE, body=body)
        )
        talk.pause(120_000)
    talk.close()
    return talk


def tls(rng: Random, start_us: int) -> Conversation:
    """Speak TLS 1.3, with hellos in plain text and random bytes for the encrypted rest."""
    version = rng.choice((4, 4, 6))
    talk = TcpConversation(rng, start_us, desk(rng, version), remote(rng, version), 443)
    session = rng.randbytes(32)
    talk.send(talk.client, messages.client_hello(rng, session, rng.choice(SITES)))
    talk.send(
        talk.server,
        messages.server_hello(rng, session)
        + messages.record(20, b"\x01")
        + messages.application_data(rng, rng.randint(2000, 4200)),
    )
    talk.send(talk.client, messages.record(20, b"\x01") + messages.application_data(rng, 53))
    for _ in range(rng.randint(1, 5)):
        talk.pause(80_000)
        talk.send(talk.client, messages.application_data(rng, rng.randint(80, 700)))
        talk.send(
            talk.server,
            b"".join(
                messages.application_data(rng, rng.randint(200, 9000)) for _ in range(rng.randint(1, 2))
            ),
        )
    talk.close()
    return talk


def ntp(rng: Random, start_us: int) -> Conversation:
    """Ask for the time (RFC 5905)."""
    talk = UdpConversation(rng, start_us, desk(rng), server(12), 123, client_port=123)
    stamp = start_us // 1_000_000 + 2_208_988_800 << 32
    talk.send(talk.client, struct.pack("!BBbb3I4Q", 0x23, 0, 6, -20, 0, 0, 0, 0, 0, 0, stamp))
    reply = struct.pack("!BBbbII4s4Q", 0x24, 2, 6, -23, 1200, 900, b"GPS\0", stamp, stamp, stamp, stamp)
    talk.send(talk.server, reply)
    return talk


def dhcp(rng: Random, start_us: int) -> Conversation:
    """Lease an address: discover, offer, request, acknowledge (RFC 2131)."""
    own = desk(rng)
    asker = Host(own.mac, ip_address("0.0.0.0"))  # noqa: S104  the address of a host that has none
    everyone = Host(BROADCAST_MAC, ip_address("255.255.255.255"))
    lender = server(67)
    transaction = rng.getrandbits(32)
    talk = UdpConversation(rng, start_us, asker, everyone, 67, client_port=68)
    answers = UdpConversation(rng, start_us, lender, everyone, 68, client_port=67)
    for request, reply in ((1, 2), (3, 5)):
        talk.send(asker, messages.dhcp_message(1, transaction, own, bytes(4), request, lender))
        answers.now_us = talk.now_us + 400
        answers.send(lender, messages.dhcp_message(2, transaction, own, own.address.packed, reply, lender))
        talk.now_us = answers.now_us + 900
    talk.frames += answers.frames
    return talk


def arp(rng: Random, start_us: int) -> Conversation:
    """Ask for a neighbour's link address."""
    talk = Conversation(rng, start_us, desk(rng), server(1))
    unknown = Host(bytes(6), talk.server.address)
    talk.link(talk.client, frames.ETHERTYPE_ARP, frames.arp(1, talk.client, unknown), BROADCAST_MAC)
    talk.link(talk.server, frames.ETHERTYPE_ARP, frames.arp(2, talk.server, talk.client))
    return talk


def ping(rng: Random, start_us: int) -> Conversation:
    """Send echo requests and replies over IPv4 or IPv6, long ones in fragments."""
    version = rng.choice((4, 4, 6))
    talk = Conversation(rng, start_us, desk(rng, version), remote(rng, version))
    identifier, payload = rng.getrandbits(16), bytes(range(0x10, 0x48)) * rng.choice((1, 1, 1, 60))
    protocol = ICMP if version == 4 else ICMPV6
    for seq in range(1, rng.randint(2, 4)):
        for sender in (talk.client, talk.server):
            ends = (sender.address, talk.other(sender).address)
            reply = sender is talk.server
            message = frames.echo(*ends, reply=reply, identifier=identifier, seq=seq, payload=payload)
            talk.ip(sender, protocol, message)
        talk.pause(1_000_000)
    return talk


def mail(rng: Random, start_us: int) -> Conversation:
    """Deliver a mail with SMTP (RFC 5321) to a server that does not name its software."""
    talk = TcpConversation(rng, start_us, remote(rng), server(25), 25)
    talk.send(talk.server, b"220 mx.example ready\r\n")
    for line, reply in (
        ("EHLO post.example.net", "250-mx.example\r\n250 8BITMIME"),
        ("MAIL FROM:<anna@example.net>", "250 2.1.0 Ok"),
        ("RCPT TO:<berta@example.org>", "250 2.1.5 Ok"),
        ("DATA", "354 End data with <CR><LF>.<CR><LF>"),
        (f"Subject: minutes\r\n\r\n{PROSE}\r\n.", "250 2.0.0 Ok: queued"),
        ("QUIT", "221 2.0.0 Bye"),
    ):
        talk.send(talk.client, f"{line}\r\n".encode())
        talk.send(talk.server, f"{reply}\r\n".encode())
    talk.close()
    return talk


def ssh_session(rng: Random, start_us: int) -> Conversation:
    """Type in an SSH session that began before the capture, so without handshake and banner."""
    talk = TcpConversation(rng, start_us, desk(rng), server(22), 22)
    talk.frames.clear()
    for _ in range(rng.randint(6, 20)):
        talk.send(talk.client, rng.randbytes(36))
        talk.send(talk.server, rng.randbytes(rng.randint(36, 400)))
        talk.pause(90_000)
    return talk


def spanning_tree(rng: Random, start_us: int) -> Conversation:
    """Send a bridge's hello in an 802.3 frame, which has a length instead of an ethertype."""
    talk = Conversation(rng, start_us, server(2), server(3))
    bridge = struct.pack("!H6s", 0x8001, ROUTER_MAC)
    body = b"\x42\x42\x03" + struct.pack(
        "!HBBB8sI8sHHHHH", 0, 0, 0, 0, bridge, 0, bridge, 0x8002, 0, 20, 2, 15
    )
    talk.link(talk.client, len(body), body, destination=bytes.fromhex("0180c2000000"))
    return talk


def _body(rng: Random, kind: str) -> bytes:
    """Return a page: prose for text, random bytes for binary files."""
    if kind == "application/octet-stream":
        return rng.randbytes(rng.randint(3000, 24_000))
    return (PROSE * 40)[: rng.randint(200, 7000)].encode()
