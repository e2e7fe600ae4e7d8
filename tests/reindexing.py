"""A reindexer beside an index that is written in this process, without the supervisor and the indexer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from processes import TIMEOUT_S

from sensor.config.settings import Settings
from sensor.evidence.conversation_links import link_rules
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.live.reindex_launcher import ReindexLauncher
from sensor.live.reindexer import Reindexer
from sensor.rules.engine.profile import PROFILES


class Reindexing:
    """The parts of supervisor and indexer that fill gaps."""

    def __init__(self, settings: Settings, writer: IndexedWriter) -> None:
        http = PROFILES[settings.profile].http
        self.reindexer = Reindexer(writer.index, http, lambda: lambda: True, link_rules("threat", 60))
        self.launcher = ReindexLauncher(settings, writer.directory)
        self._writer = writer

    @property
    def pid(self) -> int | None:
        """Process id of the reindexer."""
        return self.launcher.pid

    def tick(self) -> None:
        """Do a small part of the work."""
        self._writer.tick(0)
        self.reindexer.tick()
        self.launcher.tick(self.reindexer.wanted, self._answer)

    def tick_until(self, holds: Callable[[], object]) -> None:
        """Work until a condition is true."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not holds():
            assert time.monotonic() < deadline_s
            self.tick()
            time.sleep(0.001)

    def _answer(self, number: int, channel: socket.socket | None) -> None:
        self.reindexer.adopt(number, channel.dup() if channel else None)

    def close(self) -> None:
        """End the reindexer."""
        self.reindexer.close()
        self.launcher.close()
