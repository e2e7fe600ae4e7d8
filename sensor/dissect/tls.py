"""A TLS record, and of a ClientHello the server it asks for; runs wherever `dissect` does."""

from __future__ import annotations

from sensor.dissect.layer import FrameReader

_VERSIONS = {0x0300: "SSL 3.0", 0x0301: "TLS 1.0", 0x0302: "TLS 1.1", 0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}
_RECORDS = {20: "change cipher spec", 21: "alert", 22: "handshake", 23: "application data"}
_HANDSHAKES = {
    1: "ClientHello",
    2: "ServerHello",
    11: "Certificate",
    12: "ServerKeyExchange",
    14: "ServerHelloDone",
}
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _ALPN = 22, 1, 0, 16
_HEADER_SIZE = 5


def is_tls(cursor: FrameReader) -> bool:
    """Whether a record header is here."""
    head = cursor.frame[cursor.position : min(cursor.end, cursor.position + _HEADER_SIZE)]
    return len(head) == _HEADER_SIZE and head[0] in _RECORDS and head[1] == 3 and head[2] <= 4


def tls(cursor: FrameReader) -> None:
    """Read the first record (RFC 8446, section 5.1); further ones are data."""
    cursor.begin("TLS")
    kind = cursor.number("record type", 1, _RECORDS)
    cursor.number("record version", 2, _version)
    length = cursor.number("record length", 2)
    if kind != _HANDSHAKE:
        return
    end = cursor.position + length
    handshake = cursor.number("handshake type", 1, _HANDSHAKES)
    cursor.number("handshake length", 3)
    if handshake == _CLIENT_HELLO:
        _client_hello(cursor, end)


def _version(value: int) -> str:
    return f"{value:#06x} ({_VERSIONS[value]})" if value in _VERSIONS else f"{value:#06x}"


def _client_hello(cursor: FrameReader, end: int) -> None:
    """Read all of it, and the extensions one by one (RFC 8446, section 4.1.2)."""
    cursor.number("client version", 2, _version)
    cursor.octets("random", 32)
    cursor.octets("session id", cursor.number("session id length", 1))
    cursor.octets("cipher suites", cursor.number("cipher suites length", 2))
    cursor.octets("compression methods", cursor.number("compression methods length", 1))
    extensions_end = min(end, cursor.position + 2 + cursor.number("extensions length", 2))
    while cursor.position + 4 <= extensions_end:
        start = cursor.position
        kind, size = int.from_bytes(cursor.take(2)), int.from_bytes(cursor.take(2))
        if kind == _SERVER_NAME and size:
            _server_name(cursor, size)
        elif kind == _ALPN and size:
            cursor.text("application protocols", size)
        else:
            content = cursor.take(size)
            cursor.note(f"extension {kind}", content.hex(), start, cursor.position)


def _server_name(cursor: FrameReader, size: int) -> None:
    """Read the one name a client may ask for (RFC 6066, section 3)."""
    end = cursor.position + size
    cursor.take(3)  # length of the list, type of the name
    cursor.text("server name", min(int.from_bytes(cursor.take(2)), end - cursor.position))
    cursor.take(max(0, end - cursor.position))
