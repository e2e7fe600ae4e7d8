"""The task of a process that compiles rules: what its parent writes to its standard input. Used by both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sensor.model import RULE_CLASSES
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.files.rule_fault import Fault
from sensor.rules.files.rule_sources import RuleSources

NO_MEMORY, TOO_LARGE = 3, 4
"""Exit codes of a process that met its limit of memory, or of the size of its result."""


class CompilerLimits(NamedTuple):
    """Limits for one set of rules."""

    cpu_s: int = 300
    """CPU time; 10,000 rules need 15 to 100 s."""
    wall_s: int = 900
    """Time on the clock, of a machine that has other things to do."""
    file_cpu_s: float = 10.0
    """CPU time to read one file."""
    rule_cpu_s: float = 3.0
    """CPU time for each of the steps of one rule, which usually needs some milliseconds."""
    memory_mib: int = 3072
    """Memory; 10,000 rules need up to 0.7 GiB."""
    result_mib: int = 1024
    """Size of the compiled rules; 10,000 rules have up to 30 MiB."""


class CompilerTask(NamedTuple):
    """Rule files, and what to make of them."""

    sources: RuleSources
    http: HttpReading | None
    """The definition of HTTP to compile for; None: the rules are only checked."""
    lenient: bool
    refused: Mapping[str, str]
    """Problems of rules that are known to be faulty, by id."""
    yields: bool = False
    """True if other processes go first, as capture does during a reload."""
    limits: CompilerLimits = CompilerLimits()

    def encode(self) -> bytes:
        """Return the task: a line of JSON, and the contents of the files."""
        head = {
            "directory": str(self.sources.directory),
            "sizes": {rule_class: len(content) for _, rule_class, content in self.sources},
            "faults": [[str(fault.path), fault.problem] for fault in self.sources.faults],
            "http": None if self.http is None else [one.decode("latin-1") for one in self.http.beginnings],
            "lenient": self.lenient,
            "refused": dict(self.refused),
            "yields": self.yields,
            "limits": self.limits,
        }
        return b"".join((json.dumps(head).encode("ascii"), b"\n", *self.sources.contents.values()))

    @classmethod
    def decode(cls, data: bytes) -> CompilerTask:
        """Return the task that `encode` encoded; the files in it are not looked at."""
        line, _, files = data.partition(b"\n")
        head = json.loads(line)
        contents, start = {}, 0
        for rule_class in RULE_CLASSES:
            if rule_class in head["sizes"]:
                end = start + head["sizes"][rule_class]
                contents[rule_class] = files[start:end]
                start = end
        faults = tuple(Fault(Path(path), None, None, None, problem) for path, problem in head["faults"])
        http = (
            None
            if head["http"] is None
            else HttpReading(tuple(one.encode("latin-1") for one in head["http"]))
        )
        sources = RuleSources(Path(head["directory"]), contents, faults)
        return cls(
            sources, http, head["lenient"], head["refused"], head["yields"], CompilerLimits(*head["limits"])
        )
