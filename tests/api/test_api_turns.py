"""Queries take turns, end at their deadline, and end with their client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from api_samples import NOON_US, evidence_item, keep

from sensor.api.deadline import ClientGoneError, Deadline, QueryTimeoutError
from sensor.api.turns import Turns
from sensor.evidence.search import EvidenceSearch, Query


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_waiting_clients_take_turns() -> None:
    """A client with many queries waiting delays another one by one query."""
    served: list[str] = []

    async def query(turns: Turns, client: str) -> None:
        await turns.acquire(client, 60)
        served.append(client)
        await asyncio.sleep(0)
        turns.release(client)

    async def main() -> None:
        turns = Turns(slots=1)
        async with asyncio.TaskGroup() as queries:
            for client in ["greedy"] * 20 + ["modest"]:
                queries.create_task(query(turns, client))

    asyncio.run(main())
    assert served.index("modest") <= 2
    assert len(served) == 21


def test_no_client_holds_all_slots() -> None:
    """Another client finds a slot while a greedy one has queries running and waiting."""

    async def main() -> None:
        turns = Turns(slots=4)
        greedy = [asyncio.create_task(turns.acquire("greedy", 60)) for _ in range(20)]
        await settle()
        assert sum(task.done() for task in greedy) == 2
        assert turns.count("greedy") == 20
        await turns.acquire("modest", 60)
        for task in greedy:
            task.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("is_granted", [False, True])
def test_a_client_that_goes_leaves_its_place(is_granted: bool) -> None:
    """Neither a place in the queue nor a slot that is just being granted is lost with its client."""

    async def main() -> None:
        turns = Turns(slots=1)
        await turns.acquire("first", 60)
        gone = asyncio.create_task(turns.acquire("gone", 60))
        await settle()
        if is_granted:
            turns.release("first")
        gone.cancel()
        await settle()
        if not is_granted:
            turns.release("first")
        await turns.acquire("next", 60)
        assert turns.count("gone") == 0

    asyncio.run(main())


def test_waiting_ends() -> None:
    """A query that gets no slot in time leaves the queue."""

    async def main() -> None:
        turns = Turns(slots=1)
        await turns.acquire("first", 60)
        with pytest.raises(TimeoutError):
            await turns.acquire("second", 0)
        assert turns.count("second") == 0

    asyncio.run(main())


def test_a_deadline_names_its_setting() -> None:
    """The error says which setting ended the query, and how to ask for less."""
    deadline = Deadline(0, "query_seconds")
    with pytest.raises(QueryTimeoutError, match=r"narrow the time range .* raise query_seconds"):
        deadline.check()
    deadline.extend(600, "export_seconds")
    deadline.check()
    deadline.abandon()
    with pytest.raises(ClientGoneError):
        deadline.check()


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return five thousand items."""
    items = [evidence_item(number, NOON_US + number * 1_000) for number in range(5_000)]
    return keep(tmp_path_factory.mktemp("evidence"), items)


@pytest.mark.parametrize("checks", [1, 3, 20])
def test_a_search_for_text_ends(evidence: Path, checks: int) -> None:
    """A search that nobody waits for ends, even while it finds nothing."""
    search = EvidenceSearch(evidence, abandoned_after(checks))
    with pytest.raises(ClientGoneError):
        list(search.iterate(Query(text=b"nowhere")))


def test_the_database_is_interrupted(evidence: Path) -> None:
    """A statement that takes long ends, and is not taken for damage of the index."""
    search = EvidenceSearch(evidence, abandoned_after(checks=2))  # the first is before a database is opened
    with pytest.raises(ClientGoneError):
        search.histogram(Query(port=80), NOON_US, NOON_US + 5_000_000, 10)


def abandoned_after(checks: int) -> Callable[[], None]:
    """Return a check of a deadline whose client goes after this many calls."""
    deadline = Deadline(600, "query_seconds")
    calls = count()

    def check() -> None:
        if next(calls) == checks:
            deadline.abandon()
        deadline.check()

    return check
