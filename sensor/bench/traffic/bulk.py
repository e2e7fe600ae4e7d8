"""Conversations with many bytes: downloads, file shares, flows of a data centre.

Runs in the traffic generator.
"""

from __future__ import annotations

import struct
from random import Random

from sensor.bench.traffic import messages, sizes
from sensor.bench.traffic.conversations import Conversation, TcpConversation
from sensor.bench.traffic.frames import Host
from sensor.bench.traffic.hosts import desk, remote, server

MOST_BYTES = 4_000_000
"""Limit of one transfer: a longer one would fill a capture of some ten thousand frames by itself."""
_SMB_READ_BYTES = 1 << 16
_SHORT = 200
"""Approximate size of the small packets of data centres, in bytes.

Benson et al., "Network traffic characteristics of data centers in the wild", IMC 2010, section 4.2, which
finds most packets near 200 and 1400 bytes.
"""
_RPC_PORTS = (80, 443, 3306, 6379, 8080, 9042, 9092, 11211)


def download(rng: Random, start_us: int) -> Conversation:
    """Fetch some objects over TLS, with the sizes of objects on the web."""
    talk = TcpConversation(rng, start_us, desk(rng), remote(rng), 443)
    session = rng.randbytes(32)
    talk.send(talk.client, messages.client_hello(rng, session, "cdn.example.net"))
    talk.send(talk.server, messages.server_hello(rng, session) + messages.application_data(rng, 3000))
    for _ in range(rng.randint(1, 4)):
        talk.send(talk.client, messages.application_data(rng, rng.randint(80, 700)))
        talk.send(talk.server, _records(rng, min(MOST_BYTES, sizes.web_object(rng))))
    talk.close()
    return talk


def share(rng: Random, start_us: int) -> Conversation:
    """Read a file from a share with SMB 2 (MS-SMB2), in a session that began before the capture."""
    talk = TcpConversation(rng, start_us, desk(rng), server(45), 445)
    left, number = min(MOST_BYTES, sizes.shared_file(rng)), rng.randrange(1000)
    while left > 0:
        number, size = number + 1, min(left, _SMB_READ_BYTES)
        talk.send(
            talk.client,
            _smb(number, 0, struct.pack("<HBBIQ16sIIIHHB", 49, 0, 0, size, 0, b"\1" * 16, 0, 0, 0, 0, 0, 0)),
        )
        talk.send(
            talk.server, _smb(number, 1, struct.pack("<HBBIII", 17, 80, 0, size, 0, 0) + rng.randbytes(size))
        )
        left -= size
    talk.close()
    return talk


def cluster(rng: Random, start_us: int) -> Conversation:
    """Send as many bytes as a flow of a data centre: most send few, and a few send most of all bytes."""
    talk = TcpConversation(rng, start_us, _machine(rng), _machine(rng), rng.choice(_RPC_PORTS))
    talk.send(talk.client, rng.randbytes(rng.randint(_SHORT // 2, _SHORT)))
    size = min(MOST_BYTES, sizes.by_steps(rng, sizes.WEB_SEARCH))
    talk.send(talk.server, rng.randbytes(size))
    talk.close()
    return talk


def _machine(rng: Random) -> Host:
    return server(rng.randint(1, 199))


def _records(rng: Random, size: int) -> bytes:
    whole, rest = divmod(size, 1 << 14)
    return b"".join(messages.application_data(rng, length) for length in [1 << 14] * whole + [rest])


def _smb(number: int, is_reply: int, body: bytes) -> bytes:
    """Build a READ message with its length in front."""
    header = struct.pack(
        "<4sHHIHHIIQIIQ16s", b"\xfeSMB", 64, 1, 0, 8, 1, is_reply, 0, number, 0, 5, 77, bytes(16)
    )
    return struct.pack("!I", len(header) + len(body)) + header + body
