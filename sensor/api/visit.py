"""One request of one client, and its share of the API. Runs in the event loop of the API process.

Queries run in threads, in two groups with slots of their own: quick ones, which read a few rows, and long
ones. However many long queries run or wait, a lookup waits for other lookups only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, TypeVar

from fastapi import Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute

from sensor.api.audit import AccessRecord
from sensor.api.deadline import Deadline
from sensor.api.turns import Turns

Query = TypeVar("Query", bound=Callable[..., Any])
SLOTS, LONG_SLOTS = 4, 2
"""Queries that run at a time, quick and long ones: Python runs one thread at a time, and the event loop needs
its turn too."""


@dataclass(frozen=True)
class Slots:
    """The slots of both groups."""

    queries_max: int
    """Queries of one client, in one group, that run or wait at a time."""
    quick: Turns = field(default_factory=lambda: Turns(SLOTS))
    long: Turns = field(default_factory=lambda: Turns(LONG_SLOTS))


class Visit(NamedTuple):
    """A request: who it is from, and when it ends."""

    client: str
    record: AccessRecord
    deadline: Deadline
    slots: Slots

    @asynccontextmanager
    async def turn(self, *, is_quick: bool) -> AsyncIterator[None]:
        """Wait for a slot, and hold it; raise 503 if there is none before the deadline."""
        turns = self.slots.quick if is_quick else self.slots.long
        try:
            await turns.acquire(self.client, self.deadline.remaining_s)
        except TimeoutError:
            raise HTTPException(
                503, "the API is busy with other queries; try again later", {"Retry-After": "10"}
            ) from None
        try:
            yield
        finally:
            turns.release(self.client)

    def require_share(self, *, is_quick: bool) -> None:
        """Raise 429 if the client has too many queries already."""
        turns = self.slots.quick if is_quick else self.slots.long
        if turns.count(self.client) >= self.slots.queries_max:
            raise HTTPException(
                429, "too many queries at a time; wait for answers first", {"Retry-After": "1"}
            )


class QueryRoute(APIRoute):
    """A route whose function, a query, runs when it is the client's turn."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that waits for the turn first."""
        answer = super().get_route_handler()
        is_quick = self.endpoint in _QUICK

        async def answer_in_turn(request: Request) -> Response:
            visit: Visit = request.state.visit
            visit.require_share(is_quick=is_quick)
            async with visit.turn(is_quick=is_quick):
                return await answer(request)

        return answer_in_turn


_QUICK: set[Callable[..., Any]] = set()


def quick(query: Query) -> Query:
    """Mark the function of a route as a query that reads a few rows."""
    _QUICK.add(query)
    return query


async def _visit(request: Request) -> Visit:
    visit: Visit = request.state.visit
    return visit


UsesVisit = Annotated[Visit, Depends(_visit)]
