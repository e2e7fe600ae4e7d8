"""The list of fuzzers. Each is a module of this package with a function ``fuzz(round)``."""

from __future__ import annotations

from typing import NamedTuple


class Fuzzer(NamedTuple):
    """A fuzzer, and what it needs."""

    module: str
    rounds: int
    """Rounds in ``make test``; they take a few seconds."""
    comparisons: int
    """Comparisons that these rounds make at least."""
    is_sanitised: bool = False
    """True if the native code runs under AddressSanitizer and UndefinedBehaviorSanitizer."""
    needs_kernel: bool = False
    """True if it loads eBPF programs."""

    @property
    def name(self) -> str:
        """The name on the command line; inputs depend on it."""
        return f"{self.module}_sanitised" if self.is_sanitised else self.module


FUZZERS = {
    one.name: one
    for one in (
        Fuzzer("matching", rounds=2, comparisons=200_000),
        Fuzzer("matching", rounds=1, comparisons=100_000, is_sanitised=True),
        Fuzzer("prefilter", rounds=3, comparisons=60_000),
        Fuzzer("kernel_prefilter", rounds=3, comparisons=20_000, needs_kernel=True),
        Fuzzer("headers", rounds=3, comparisons=80_000),
        Fuzzer("headers", rounds=1, comparisons=25_000, is_sanitised=True),
        Fuzzer("kernel_headers", rounds=3, comparisons=25_000, needs_kernel=True),
        Fuzzer("capture_files", rounds=2, comparisons=7_000, is_sanitised=True),
        Fuzzer("flow_tables", rounds=2, comparisons=20_000, is_sanitised=True),
        Fuzzer("suppressions", rounds=2, comparisons=50_000, is_sanitised=True),
        Fuzzer("source_tables", rounds=1, comparisons=5_000, is_sanitised=True),
        Fuzzer("ring_records", rounds=1, comparisons=1_500, is_sanitised=True),
        Fuzzer("histories", rounds=2, comparisons=900, is_sanitised=True),
        Fuzzer("lines", rounds=1, comparisons=2_000, is_sanitised=True),
        Fuzzer("records", rounds=1, comparisons=30_000, is_sanitised=True),
        Fuzzer("blocks", rounds=1, comparisons=2_000, is_sanitised=True),
        Fuzzer("reports", rounds=1, comparisons=2_000, is_sanitised=True),
        Fuzzer("messages", rounds=1, comparisons=5_000),
        Fuzzer("rule_files", rounds=5, comparisons=400),
        Fuzzer("api_requests", rounds=2, comparisons=600),
        Fuzzer("settings_files", rounds=3, comparisons=2_000),
        Fuzzer("evidence_files", rounds=1, comparisons=20_000),
    )
}
"""By name."""
