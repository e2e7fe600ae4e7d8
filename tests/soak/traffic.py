"""Ordinary traffic with attacks, sent without end to the other side of each port."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path


class Sender:
    """Sends a capture again and again through an interface, with other addresses each time.

    When the interface goes away or down, tcpreplay ends; it is started again until the end.
    """

    def __init__(self, interface: str, capture: Path, frames_per_second: int) -> None:
        self._command = [
            *("tcpreplay", "--quiet", "--preload-pcap", "--no-flow-stats", "--unique-ip", "--loop=0"),
            *(f"--pps={frames_per_second}", f"--intf1={interface}", str(capture)),
        ]
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Stop sending."""
        self._over.set()
        if process := self._process:
            process.terminate()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.5):  # an interface that is away must not make this a busy loop
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while self._process.poll() is None:
                if self._over.wait(0.1):
                    self._process.terminate()
            self._process.wait()
