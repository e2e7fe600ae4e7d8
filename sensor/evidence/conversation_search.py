"""Finds conversations in the index. Runs in the API process and in ``sensor evidence``."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sensor.errors import EvidenceError
from sensor.evidence.community_id import ICMP_PROTOCOLS, icmp_message
from sensor.evidence.conversation import CONVERSATION_MAX
from sensor.evidence.day_reader import DayReader, never_ends, query_day
from sensor.evidence.index_schema import DAY_US, Day, databases, day_of
from sensor.evidence.open_conversation import SILENCE_NS
from sensor.evidence.query import Query
from sensor.evidence.search import EvidenceSearch
from sensor.evidence.stored import Stored, StoredRecords
from sensor.evidence.stored_conversation import StoredConversation
from sensor.evidence.tcp_ending import seen_ending
from sensor.model import Role
from sensor.protocols import TCP

_NEIGHBOUR_DAYS = tuple(timedelta(days) for days in (-1, 0, 1))
"""Days in which the packets of a conversation can be, counted from that of its number."""


class ConversationPage(NamedTuple):
    """One page of a list of conversations."""

    conversations: list[StoredConversation]
    before: tuple[int, int] | None
    """Number and device of the last one, from where the next page goes on; None at the end."""


class ConversationSearch:
    """Searches an evidence directory for conversations, those of all devices in it.

    ``check`` is called often during a query, and raises to end it.

    Raises:
        EvidenceError: a directory cannot be read. Every method can raise this.
    """

    def __init__(self, directory: Path, check: Callable[[], None] = never_ends) -> None:
        self._directory = directory
        self._evidence = EvidenceSearch(directory, check)
        self._query_day = partial(query_day, check=check)

    def page(self, query: Query, limit: int, before: tuple[int, int] | None = None) -> ConversationPage:
        """Return the newest conversations, or the newest before one of the list.

        A conversation is in the list if one of its matches meets the query. Times are those of the first
        match. The text of the query is ignored.
        """
        found = list(islice(self._numbers(query, before), limit + 1))
        conversations = [
            one for number, devid in found[:limit] if (one := self.of_device(devid, number)) is not None
        ]
        return ConversationPage(conversations, found[limit - 1] if len(found) > limit else None)

    def of_device(self, devid: int, number: int) -> StoredConversation | None:
        """Return a conversation of a device; None if it is not there any more."""
        if not 0 < number <= CONVERSATION_MAX:
            return None
        day = day_of(number)
        packets: list[Stored] = []
        for near in _NEIGHBOUR_DAYS:
            other = Day(day.date + near)
            packets += self._query_day(
                self._path(devid, other), other, devid, lambda reader: reader.conversation(number)
            )
        if not packets:
            return None
        packets += self._earlier_matches(number, min(packets, key=lambda one: one.time_us))
        notes = self._query_day(
            self._path(devid, day), day, devid, lambda reader: reader.conversation_note(number)
        )
        note = next(notes, None)
        ending = None if note else seen_ending(packets)
        return StoredConversation(
            number, packets, note, ending, _icmp(min(packets, key=lambda one: one.time_us))
        )

    def _earlier_matches(self, number: int, first: Stored) -> Iterator[Stored]:
        """Yield the matches of a conversation's flow before it was opened, which were stored without it.

        ``first`` is its first packet. Datagrams may have begun the flow before that.
        """
        silence_us = 0 if first.five_tuple.protocol == TCP else SILENCE_NS // 1000
        for one in self._evidence.flow_between(first, first.time_us - silence_us, number):
            if one.role == Role.HIT and one.conversation is None:
                yield one

    def find(self, key: str, devid: int | None = None) -> list[StoredConversation]:
        """Return the conversations that a key names: one per device, or none.

        The key is the number of a conversation, or the key or the microsecond of one of its packets.
        """
        devices = self._evidence.devices() if devid is None else [devid]
        if not re.fullmatch("[0-9]{1,18}", key, re.ASCII):
            stored = self._evidence.get(key)
            found = [stored] if stored and stored.devid in devices else []
        else:
            number = min(int(key), CONVERSATION_MAX)
            whole = [one for device in devices if (one := self.of_device(device, number))]
            if whole:
                return whole
            found = self._evidence.lookup(number, devid)
        numbers = dict.fromkeys((one.devid, one.conversation) for one in found)
        return [
            one
            for device, number in numbers
            if number and (one := self.of_device(device, number)) is not None
        ]

    def _numbers(self, query: Query, before: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
        """Yield number and device of the conversations that meet a query, the newest first."""
        devices = [devid for devid in self._evidence.devices() if query.devid in (None, devid)]
        streams = [self._of_device(devid, query, before) for devid in devices]
        yield from heapq.merge(*streams, reverse=True)

    def _of_device(
        self, devid: int, query: Query, before: tuple[int, int] | None
    ) -> Iterator[tuple[int, int]]:
        first = query.since_us or 0
        end = CONVERSATION_MAX + 1 if query.until_us is None else query.until_us
        if before is not None:
            end = min(end, before[0] + (devid < before[1]))
        for day, path in reversed(databases(self._directory / str(devid))):
            low, high = max(first, day.start_us), min(end, day.start_us + DAY_US)
            if low < high:
                numbers = partial(DayReader.conversation_numbers, query=query, low=low, high=high)
                for number in self._query_day(path, day, devid, numbers):
                    yield number, devid

    def _path(self, devid: int, day: Day) -> Path:
        return self._directory / str(devid) / day.file_name


def _icmp(stored: Stored) -> tuple[int, int] | None:
    """Return type and code of a packet of ICMP or ICMPv6, if it can still be read."""
    if stored.five_tuple.protocol not in ICMP_PROTOCOLS:
        return None
    with closing(StoredRecords()) as records, suppress(EvidenceError):
        return icmp_message(stored.five_tuple, records.read(stored).frame, stored.payload_start)
    return None


def the_one(conversations: list[StoredConversation], key: str) -> StoredConversation:
    """Return the only conversation.

    Raises:
        EvidenceError: there is none, or there are several.
    """
    if not conversations:
        raise EvidenceError(
            f"there is no conversation {key}; sensor evidence list shows which packets are in one"
        )
    if len(conversations) > 1:
        devices = ", ".join(str(one.devid) for one in conversations)
        raise EvidenceError(f"there are several conversations {key}; choose one with --devid: {devices}")
    return conversations[0]
