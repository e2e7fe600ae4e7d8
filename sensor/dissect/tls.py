"""TLS records, and the server name in a ClientHello. Runs where `dissect` runs."""

from __future__ import annotations

from sensor.dissect.frame_reader import FrameReader

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


def is_tls(reader: FrameReader) -> bool:
    """Return True if a record header starts here."""
    head = reader.frame[reader.position : min(reader.end, reader.position + _HEADER_SIZE)]
    return len(head) == _HEADER_SIZE and head[0] in _RECORDS and head[1] == 3 and head[2] <= 4


def tls(reader: FrameReader) -> None:
    """Read the first record (RFC 8446, section 5.1); the rest is data."""
    reader.begin_layer("TLS")
    kind = reader.read_number("record type", 1, _RECORDS)
    reader.read_number("record version", 2, _version)
    length = reader.read_number("record length", 2)
    if kind != _HANDSHAKE:
        return
    end = reader.position + length
    handshake = reader.read_number("handshake type", 1, _HANDSHAKES)
    reader.read_number("handshake length", 3)
    if handshake == _CLIENT_HELLO:
        _client_hello(reader, end)


def _version(value: int) -> str:
    return f"{value:#06x} ({_VERSIONS[value]})" if value in _VERSIONS else f"{value:#06x}"


def _client_hello(reader: FrameReader, end: int) -> None:
    """Read a ClientHello, one field per extension (RFC 8446, section 4.1.2)."""
    reader.read_number("client version", 2, _version)
    reader.read_bytes("random", 32)
    reader.read_bytes("session id", reader.read_number("session id length", 1))
    reader.read_bytes("cipher suites", reader.read_number("cipher suites length", 2))
    reader.read_bytes("compression methods", reader.read_number("compression methods length", 1))
    extensions_end = min(end, reader.position + 2 + reader.read_number("extensions length", 2))
    while reader.position + 4 <= extensions_end:
        start = reader.position
        kind, size = int.from_bytes(reader.read(2)), int.from_bytes(reader.read(2))
        if kind == _SERVER_NAME and size:
            _server_name(reader, size)
        elif kind == _ALPN and size:
            reader.read_text("application protocols", size)
        else:
            content = reader.read(size)
            reader.add_field(f"extension {kind}", content.hex(), start, reader.position)


def _server_name(reader: FrameReader, size: int) -> None:
    """Read the server name; a client sends at most one (RFC 6066, section 3)."""
    end = reader.position + size
    reader.read(3)  # length of the list, type of the name
    reader.read_text("server name", min(int.from_bytes(reader.read(2)), end - reader.position))
    reader.read(max(0, end - reader.position))
