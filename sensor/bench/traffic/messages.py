"""Messages of the protocols above TCP and UDP, complete enough for a dissector.

Runs in the traffic generator.
"""

from __future__ import annotations

import struct
from random import Random

from sensor.bench.traffic.frames import Host


def http_request(line: str, host: str, *fields: str, body: str = "") -> bytes:
    """Build an HTTP/1.1 request; ``line`` is the request line without its version."""
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}", *fields, *length, "", body]).encode()


def http_response(status: str, *fields: str, body: bytes = b"") -> bytes:
    """Build an HTTP/1.1 response."""
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def dns_messages(rng: Random, name: str, texts: int = 0) -> tuple[bytes, bytes]:
    """Build a DNS query and its answer (RFC 1035), with an address or with ``texts`` TXT records."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    question = labels + struct.pack("!HH", 16 if texts else 1, 1)
    identifier = rng.getrandbits(16)
    if texts:
        records = [b"\xfa" + rng.randbytes(125).hex().encode() for _ in range(texts)]
    else:
        records = [bytes([203, 0, 113, rng.randint(1, 254)])]
    answers = b"".join(
        struct.pack("!HHHIH", 0xC00C, 16 if texts else 1, 1, 300, len(data)) + data for data in records
    )
    return (
        struct.pack("!6H", identifier, 0x0100, 1, 0, 0, 0) + question,
        struct.pack("!6H", identifier, 0x8180, 1, len(records), 0, 0) + question + answers,
    )


def record(kind: int, body: bytes) -> bytes:
    """Wrap bytes in a TLS record (RFC 8446, 5.1)."""
    return struct.pack("!BHH", kind, 0x0303, len(body)) + body


def application_data(rng: Random, length: int) -> bytes:
    """Build a TLS record with ``length`` bytes of random application data."""
    return record(23, rng.randbytes(length))


def _hello(kind: int, head: bytes, extensions: tuple[tuple[int, bytes], ...]) -> bytes:
    """Build a hello message in its record."""
    tail = b"".join(struct.pack("!HH", number, len(body)) + body for number, body in extensions)
    message = head + struct.pack("!H", len(tail)) + tail
    return record(22, struct.pack("!I", kind << 24 | len(message)) + message)


def client_hello(rng: Random, session: bytes, site: str) -> bytes:
    """Build a TLS 1.3 ClientHello (RFC 8446, 4.1.2)."""
    name = site.encode()
    suites = struct.pack("!3H", 0x1301, 0x1302, 0x1303)
    head = struct.pack("!H32sB32sH", 0x0303, rng.randbytes(32), 32, session, len(suites)) + suites + b"\x01\0"
    return _hello(
        1,
        head,
        (
            (0, struct.pack("!HBH", len(name) + 3, 0, len(name)) + name),
            (10, struct.pack("!HH", 2, 29)),
            (13, struct.pack("!HHH", 4, 0x0403, 0x0804)),
            (43, b"\x02\x03\x04"),
            (51, struct.pack("!HHH", 36, 29, 32) + rng.randbytes(32)),
        ),
    )


def server_hello(rng: Random, session: bytes) -> bytes:
    """Build a TLS 1.3 ServerHello (RFC 8446, 4.1.3)."""
    head = struct.pack("!H32sB32sHB", 0x0303, rng.randbytes(32), 32, session, 0x1301, 0)
    return _hello(2, head, ((43, b"\x03\x04"), (51, struct.pack("!HH", 29, 32) + rng.randbytes(32))))


def dhcp_message(operation: int, transaction: int, own: Host, lent: bytes, kind: int, lender: Host) -> bytes:
    """Build a DHCP message of a ``kind`` (RFC 2131); ``operation`` is 1 from a client, 2 from a server."""
    head = struct.pack("!4BIHH4x4s8x", operation, 1, 6, 0, transaction, 0, 0x8000, lent)
    options = bytes([53, 1, kind]) + (b"\x36\x04" + lender.address.packed if kind != 1 else b"") + b"\xff"
    return (head + own.mac).ljust(236, b"\0") + b"\x63\x82\x53\x63" + options
