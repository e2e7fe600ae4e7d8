"""Texts that an expression cannot match without: what to look for first. Used when rules are loaded."""

from __future__ import annotations

from sensor.rules.regex import Bytes, Choice, Group, Mark, Node, Place, Repeat, Sequence

Literal = tuple[frozenset[int], ...]
"""Bytes one behind the other; two values where a letter's case does not count."""

SHORTEST = 3
_MOST = 64

_ORDINARY = (
    b"get /index.html?id=1 /index.php? /static/js/main.js /css/style.css /images/logo.png /api/v1/ "
    b"get / http/1.1\r\nhost: www.example.com\r\nuser-agent: mozilla/5.0 (windows nt 10.0; win64; x64) "
    b"(macintosh; intel mac os x 10_15) (x11; linux x86_64) (linux; android 14) (iphone; cpu os like mac os) "
    b"applewebkit/537.36 (khtml, like gecko) chrome/120.0 mobile safari/537.36 gecko/2010 firefox/120.0\r\n"
    b"accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    b"accept-language: en-us,en;q=0.5\r\naccept-encoding: gzip, deflate, br\r\nreferer: https://a.com/\r\n"
    b"origin: http://www.example.com\r\ncookie: session=\r\nconnection: keep-alive, close\r\n"
    b"cache-control: no-cache, max-age=0\r\nupgrade-insecure-requests: 1\r\nsec-fetch-dest: document\r\n"
    b"authorization: basic\r\n\r\npost /\r\ncontent-type: application/x-www-form-urlencoded; charset=utf-8, "
    b"application/json, text/plain\r\ncontent-length: 123\r\n\r\nhttp/1.1 200 ok\r\ndate: mon, 01 jan 2024 "
    b"00:00:00 gmt\r\nserver: \r\nlast-modified: \r\netag: \r\ncontent-encoding: \r\ntransfer-encoding: "
    b"chunked\r\nvary: \r\nset-cookie: path=/; expires=\r\nlocation: http://\r\nx-powered-by: \r\n"
    b"www-authenticate: basic realm=\r\n\r\n<!doctype html><html><head><title>"
)
"""What ordinary HTTP is made of, in lower case: literals in it are found too often to be looked for."""


def required(node: Node) -> list[frozenset[Literal]]:
    """List sets of literals; every match contains one literal at least of each set."""
    match node:
        case Sequence(nodes):
            runs, found = _runs(nodes)
            return found + [frozenset((run,)) for run in runs if len(run) >= SHORTEST]
        case Choice(nodes):
            best = [max(required(branch), key=_quality, default=None) for branch in nodes]
            if any(literals is None for literals in best):
                return []
            merged = frozenset[Literal]().union(*(literals for literals in best if literals))
            return [merged] if len(merged) <= _MOST else []
        case Repeat(inner, least) if least > 0:
            return required(inner)
        case Group(_, inner):
            return required(inner)
        case _:
            return []


def _runs(nodes: tuple[Node, ...]) -> tuple[list[Literal], list[frozenset[Literal]]]:
    """Split a sequence into its runs of plain text, and what the nodes between them require."""
    runs: list[Literal] = [()]
    found: list[frozenset[Literal]] = []
    for node in nodes:
        match node:
            case Bytes(values) if _is_plain(values):
                runs[-1] += (values,)
            case Place() | Mark():
                pass
            case _:
                runs.append(())
                found += required(node)
    return runs, found


def _is_plain(values: frozenset[int]) -> bool:
    if len(values) == 2:
        low, high = sorted(values)
        return high == low | 0x20 and chr(low).isalpha()
    return len(values) == 1


def _quality(literals: frozenset[Literal]) -> tuple[int, int]:
    """Rate a set: long literals first, few of them next."""
    return min(map(len, literals)), -len(literals)


def is_ordinary(literal: Literal) -> bool:
    """Whether the literal is a common word of HTTP."""
    return bytes(map(max, literal)).lower() in _ORDINARY
