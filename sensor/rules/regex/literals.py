"""Finds literals for a fast first search: every match contains one. Used when rules are loaded."""

from __future__ import annotations

from collections.abc import Iterator

from sensor.rules.regex.tree import Bytes, Choice, Group, Mark, Node, Position, Repeat, Sequence

Literal = tuple[frozenset[int], ...]
"""One set of bytes per position; both cases of a letter where case does not matter."""

SHORTEST = 3
_MOST = 64
_FEW = 12
_NOTHING: frozenset[Literal] = frozenset(((),))

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
"""Ordinary HTTP in lower case: literals found in it are too common to be worth searching for."""


def required(node: Node) -> list[frozenset[Literal]]:
    """Return sets of literals; every match contains at least one literal of each set."""
    return _Search().required(node)


class _Search:
    """Searches one tree. The texts of each node are listed once, though they are asked for on every level."""

    def __init__(self) -> None:
        self._known: dict[int, frozenset[Literal] | None] = {}
        """Results of `_texts`, by the node's id."""

    def required(self, node: Node) -> list[frozenset[Literal]]:
        """Return sets of literals; every match contains at least one literal of each set."""
        match node:
            case Sequence(nodes):
                return self._required_by_sequence(nodes)
            case Choice(nodes):
                best = [max(self.required(branch), key=_quality, default=None) for branch in nodes]
                if any(literals is None for literals in best):
                    return []
                merged = frozenset[Literal]().union(*(literals for literals in best if literals))
                return [merged] if len(merged) <= _MOST else []
            case Repeat(inner, least) if least > 0:
                return self.required(inner)
            case Group(_, inner):
                return self.required(inner)
            case _:
                return []

    def _required_by_sequence(self, nodes: tuple[Node, ...]) -> list[frozenset[Literal]]:
        """Join neighbouring nodes as long as they have few texts, and handle the others node by node."""
        runs: list[frozenset[Literal]] = [_NOTHING]
        found: list[frozenset[Literal]] = []
        for node in nodes:
            texts = self._texts(node)
            if texts is None:
                found += self.required(node)
                runs.append(_NOTHING)
                continue
            joined = _joined(runs[-1], texts)
            if len(joined) > _FEW:
                runs.append(texts)
            else:
                runs[-1] = joined
        return found + [run for run in runs if min(map(len, run)) >= SHORTEST]

    def _texts(self, node: Node) -> frozenset[Literal] | None:
        """Return all texts that a node matches, or None if there are too many."""
        if id(node) not in self._known:
            texts = self._listed(node)
            self._known[id(node)] = texts if texts is not None and len(texts) <= _FEW else None
        return self._known[id(node)]

    def _listed(self, node: Node) -> frozenset[Literal] | None:
        match node:
            case Bytes(values):
                return frozenset((either,) for either in _by_letter(values))
            case Sequence(nodes):
                return self._texts_of_sequence(nodes)
            case Choice(nodes):
                parts = [self._texts(inner) for inner in nodes]
                return None if None in parts else frozenset[Literal]().union(*filter(None, parts))
            case Repeat(inner, 0, 1):
                once = self._texts(inner)
                return None if once is None else once | _NOTHING
            case Repeat(inner, least, most) if least == most and least <= _FEW:
                return self._texts_of_sequence((inner,) * least)
            case Group(_, inner):
                return self._texts(inner)
            case Position() | Mark():
                return _NOTHING
        return None

    def _texts_of_sequence(self, nodes: tuple[Node, ...]) -> frozenset[Literal] | None:
        texts = _NOTHING
        for node in nodes:
            more = self._texts(node)
            if more is None or len(texts) * len(more) > _FEW:
                return None
            texts = _joined(texts, more)
        return texts


def _joined(left: frozenset[Literal], right: frozenset[Literal]) -> frozenset[Literal]:
    return frozenset(a + b for a in left for b in right)


def _by_letter(values: frozenset[int]) -> Iterator[frozenset[int]]:
    """Split a set into single bytes, but keep both cases of a letter together."""
    for value in values:
        other = value ^ 0x20
        if other not in values or not chr(value).isalpha() or value > 127:
            yield frozenset((value,))
        elif value < other:
            yield frozenset((value, other))


def _quality(literals: frozenset[Literal]) -> tuple[bool, int, int]:
    """Return a sort key: first no ordinary HTTP text, then long literals, then few of them."""
    return not any(map(is_ordinary, literals)), min(map(len, literals)), -len(literals)


def is_ordinary(literal: Literal) -> bool:
    """Return True if the literal is common in HTTP."""
    return bytes(map(max, literal)).lower() in _ORDINARY
