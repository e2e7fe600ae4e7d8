"""Two hundred clients that keep an API busy: ``python -m sensor.bench.hostile_clients PORT``.

A child process of `sensor.bench.api_lookup`. A quarter of the clients ask for histograms and close at once,
a quarter export what nobody has, a quarter are silent, and a quarter send a header byte by byte. Each has an
address of its own. A line on standard output says that all have begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from itertools import cycle, islice

CLIENTS = 200
PAUSE_S = 0.3

_Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


async def _close_at_once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_request("/api/v1/histogram?bins=500&port=443"))
    await asyncio.sleep(PAUSE_S)


async def _export(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_request("/api/v1/export.pcap?text=nowhere"))
    await reader.read()


async def _say_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_request("/")[:-2])
    while not reader.at_eof():
        writer.write(b"X")
        await asyncio.sleep(PAUSE_S)


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def _attack(number: int, attack: _Attack, port: int, begun: asyncio.Semaphore) -> None:
    """Attack from an address of this client's own, again and again."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(f"127.0.1.{number}", 0)
            )
            begun.release()
            with contextlib.closing(writer):
                await attack(reader, writer)


async def _main(port: int) -> None:
    begun = asyncio.Semaphore(0)
    attacks = islice(cycle((_close_at_once, _export, _say_nothing, _dribble)), CLIENTS)
    async with asyncio.TaskGroup() as clients:
        for number, attack in enumerate(attacks, 1):
            clients.create_task(_attack(number, attack, port, begun))
        for _ in range(CLIENTS):
            await begun.acquire()
        sys.stdout.write("begun\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
