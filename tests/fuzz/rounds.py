"""A round of a fuzzer: random inputs, all from one seed, and the faults that they show."""

from __future__ import annotations

import random
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

MOST_FAULTS = 5
"""Faults described per round; the first ones say enough."""


class Fault(NamedTuple):
    """Something that went wrong, and the inputs that show it."""

    text: str
    inputs: dict[str, bytes]
    """Content by file name."""

    def save(self, directory: Path) -> None:
        """Write the text and the inputs to files in this directory."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "fault.txt").write_text(self.text + "\n", errors="backslashreplace")
        for name, content in self.inputs.items():
            (directory / name).write_bytes(content)


@dataclass
class Round:
    """One round: where its inputs come from, and what it found."""

    number: int
    rng: random.Random
    directory: Path
    """For files of this round; empty at first, and removed at the end."""
    comparisons: int = 0
    faults: list[Fault] = field(default_factory=list)

    def fault(self, text: str, **inputs: bytes | str) -> None:
        """Note a fault; each input is named as its file, with one underscore for the dot."""
        if len(self.faults) < MOST_FAULTS:
            files = {
                name.replace("_", "."): one.encode("utf-8", "surrogatepass") if isinstance(one, str) else one
                for name, one in inputs.items()
            }
            self.faults.append(Fault(text, files))

    @contextmanager
    def no_other_error(self, *expected: type[Exception], **inputs: bytes | str) -> Iterator[None]:
        """Note a fault if the block raises anything but an ``expected`` error of one line."""
        try:
            yield
        except expected as error:
            if "\n" in str(error):
                self.fault(f"an error of several lines: {error}", **inputs)
        except Exception:
            self.fault(traceback.format_exc(), **inputs)


Fuzz = Callable[[Round], None]


def run_round(fuzz: Fuzz, name: str, seed: int, number: int) -> Round:
    """Run one round of a fuzzer; the same arguments give the same inputs."""
    with tempfile.TemporaryDirectory(prefix="sensor-fuzz-") as directory:
        one = Round(number, random.Random(f"{name} {seed} {number}"), Path(directory))
        with one.no_other_error():
            fuzz(one)
    return one
