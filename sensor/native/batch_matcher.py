"""Matches the payloads of a batch in one call. The loop is in ``match.c``.

Runs in the capture workers and in ``sensor read``. The call releases the interpreter's lock and makes
no Python object per payload or match.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.errors import SensorError
from sensor.native import check_hyperscan, hyperscan_library, library, pointer

MOST_STEPS = 8
"""Deciders per stage."""
MOST_MATCHES = 1 << 16
"""Matches that one call can return; more if there are more rules."""

_DECODED_BYTES = 1 << 11
"""Room for decoded text at first; it grows with the longest payload."""


class Databases(NamedTuple):
    """Two serialised Hyperscan databases of the same expressions, or None if there are no expressions."""

    whole: bytes | None = None
    """In block mode."""
    sliced: bytes | None = None
    """In streaming mode, for texts that are scanned slice by slice."""


class StagePlan(NamedTuple):
    """A screen, and the deciders that it calls for."""

    screen: Databases
    deciders: Sequence[tuple[int, int, Databases]]
    """The screen's bit, the part that is scanned (0: total, 1: head, 2: body), and the databases."""


class TransportPlan(NamedTuple):
    """The databases for packets of one transport protocol."""

    plain: Databases
    """For payloads that do not look like HTTP."""
    raw: StagePlan
    """For payloads that look like HTTP."""
    decoded: StagePlan
    """For the same, percent-decoded."""


class _Database(ctypes.Structure):
    """``struct database``."""

    _fields_ = [("whole", ctypes.c_void_p), ("stream", ctypes.c_void_p)]


class _Step(ctypes.Structure):
    """``struct step``."""

    _fields_ = [("database", _Database), ("bit", ctypes.c_uint32), ("part", ctypes.c_uint32)]


class _Stage(ctypes.Structure):
    """``struct stage``."""

    _fields_ = [
        ("screen", _Database),
        ("steps", _Step * MOST_STEPS),
        ("count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class _Transport(ctypes.Structure):
    """``struct transport``."""

    _fields_ = [("plain", _Database), ("raw", _Stage), ("decoded", _Stage)]


class _Budget(ctypes.Structure):
    """``struct budget``."""

    _fields_ = [
        ("limit_ns", ctypes.c_int64),
        ("cost_ns", ctypes.c_int64),
        ("start_ns", ctypes.c_int64),
        ("wall_end_ns", ctypes.c_int64),
        ("unchecked", ctypes.c_uint32),
        ("has_extra", ctypes.c_uint16),
        ("is_cut", ctypes.c_uint16),
        ("uncharged", ctypes.c_uint64),
    ]


class _Matcher(ctypes.Structure):
    """``struct matcher``."""

    _fields_ = [
        ("scan", ctypes.c_void_p),
        ("scan_stream", ctypes.c_void_p),
        ("reset_stream", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("found", ctypes.c_void_p),
        ("ports", ctypes.c_void_p),
        ("decoded", ctypes.c_void_p),
        ("decoded_size", ctypes.c_uint64),
        ("least_ns", ctypes.c_int64),
        ("most_ns", ctypes.c_int64),
        ("seen_wall_ns", ctypes.c_int64),
        ("seen_cpu_ns", ctypes.c_int64),
        ("budget", _Budget),
        ("extra_ns", ctypes.c_int64),
        ("credit", ctypes.c_int64),
        ("credit_wall_ns", ctypes.c_int64),
        ("stop_ns", ctypes.c_int64),
        ("place", ctypes.c_void_p),
        ("rules", ctypes.c_uint32),
        ("slice", ctypes.c_uint32),
        ("has_found", ctypes.c_uint32),
        ("has_stopped", ctypes.c_uint32),
        ("transports", _Transport * 3),
    ]


class _Payloads(ctypes.Structure):
    """``struct payloads``."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("start", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
        ("transport", ctypes.c_void_p),
        ("is_http", ctypes.c_void_p),
        ("sport", ctypes.c_void_p),
        ("dport", ctypes.c_void_p),
        ("incomplete", ctypes.c_void_p),
        ("cost_ns", ctypes.c_void_p),
        ("count", ctypes.c_int64),
    ]


library.match_payloads.restype = ctypes.c_int64
if ctypes.c_int64.in_dll(library, "matcher_size").value != ctypes.sizeof(_Matcher):
    raise SensorError("the native library is of another version; install sensor again: pip install .")


class BatchMatcher:
    """All databases of a rule set, loaded for ``match.c``. It belongs to one thread.

    Loaded before a process is forked, the databases are shared with it.
    """

    def __init__(
        self,
        transports: tuple[TransportPlan, TransportPlan, TransportPlan],
        ports: Sequence[int],
        slice_bytes: int,
    ) -> None:
        """Load the databases.

        Args:
            transports: For TCP, for UDP, and for any other protocol.
            ports: The port of each rule; 0: any.
            slice_bytes: Longer texts are scanned in slices of this size.

        Raises:
            SensorError: Hyperscan has too little memory, or a database is not one of this release.
        """
        self._loaded: dict[Databases, _Database] = {}
        self._owned: list[ctypes.c_void_p] = []
        self._streams: list[ctypes.c_void_p] = []
        self._scratch = ctypes.c_void_p()
        self._ports = np.array(ports, np.uint16)
        self._found = np.zeros(len(ports) // 64 + 1, np.uint64)
        self._decoded = np.empty(_DECODED_BYTES, np.uint8)
        self._place = np.zeros(1, np.uint64)
        most = max(MOST_MATCHES, len(ports), 1)
        self._positions, self._rules = np.empty(most, np.int64), np.empty(most, np.uint32)
        self._matcher = _Matcher(
            scan=_pointer(hyperscan_library.hs_scan),
            scan_stream=_pointer(hyperscan_library.hs_scan_stream),
            reset_stream=_pointer(hyperscan_library.hs_reset_stream),
            found=self._found.ctypes.data,
            ports=self._ports.ctypes.data,
            decoded=self._decoded.ctypes.data,
            decoded_size=len(self._decoded),
            place=self._place.ctypes.data,
            rules=len(ports),
            slice=slice_bytes,
        )
        for transport, plan in zip(self._matcher.transports, transports, strict=True):
            transport.plain = self._load(plan.plain)
            self._fill(transport.raw, plan.raw)
            self._fill(transport.decoded, plan.decoded)
        self._matcher.scratch = self._scratch

    def __del__(self) -> None:
        for stream in self._streams:
            hyperscan_library.hs_close_stream(stream, None, None, None)
        for database in self._owned:
            hyperscan_library.hs_free_database(database)
        hyperscan_library.hs_free_scratch(self._scratch)

    def show_place_in(self, word: NDArray[np.uint64]) -> None:
        """Write to ``word``, from now on, the start in the data of the payload that is matched."""
        self._place = word
        self._matcher.place = word.ctypes.data

    def match(
        self,
        data: NDArray[np.uint8],
        start: NDArray[np.int64],
        end: NDArray[np.int64],
        transport: NDArray[np.uint8],
        is_http: NDArray[np.bool_],
        sport: NDArray[np.uint16],
        dport: NDArray[np.uint16],
        budgets_ns: tuple[int, int, int],
        stop_ns: int = 0,
        *,
        measure: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.bool_], NDArray[np.int64]]:
        """Match n payloads, each from ``start`` up to ``end`` in ``data``; every array has shape (n,).

        ``transport`` is 0 for TCP, 1 for UDP, 2 for others. ``budgets_ns`` is the CPU time after which the
        search of a payload of 0 bytes is cut, the same for 64 KiB (others are in between), and what a few
        payloads may cost beside. After ``stop_ns`` of the monotonic clock no further payload is matched,
        unless it is 0. Returns each match as the payload's position and the rule's index, sorted by both.
        Also returns, for the first m payloads, which were matched (at least one if there is one), True if a
        payload was not searched completely, and the nanoseconds that it took, 0 unless ``measure`` asks for
        them; if the thread had to wait for a CPU, they are no more than twice the budget.

        Raises:
            SensorError: A payload is not within the data, or a scan failed.
        """
        columns = (
            np.ascontiguousarray(start, np.int64),
            np.ascontiguousarray(end, np.int64),
            np.ascontiguousarray(transport, np.uint8),
            np.ascontiguousarray(is_http, np.bool_),
            np.ascontiguousarray(sport, np.uint16),
            np.ascontiguousarray(dport, np.uint16),
        )
        count = len(columns[0])
        if any(column.shape != (count,) for column in columns):
            raise SensorError("the columns of the payloads differ in length; this is a bug: please report it")
        if count:
            self._make_room(int((columns[1] - columns[0]).max()))
        self._matcher.least_ns, self._matcher.most_ns, self._matcher.extra_ns = budgets_ns
        self._matcher.stop_ns = stop_ns
        incomplete, cost_ns = np.zeros(count, np.bool_), np.zeros(count, np.int64)
        addresses = (
            *(one.ctypes.data for one in (*columns, incomplete)),
            cost_ns.ctypes.data if measure else None,
        )
        payloads = _Payloads(data.ctypes.data, len(data), *addresses, count)
        done = ctypes.c_int64(0)
        positions, rules = [], []
        while done.value < count:
            found = library.match_payloads(
                ctypes.byref(self._matcher),
                ctypes.byref(payloads),
                ctypes.byref(done),
                pointer(self._positions),
                pointer(self._rules),
                ctypes.c_int64(len(self._rules)),
            )
            if found < 0:
                raise SensorError(f"payload {done.value} of a batch cannot be scanned; please report it")
            positions.append(self._positions[:found].copy())
            rules.append(self._rules[:found].copy())
            if self._matcher.has_stopped:
                break
        results = incomplete[: done.value], cost_ns[: done.value]
        if len(positions) == 1:
            return positions[0], rules[0], *results
        if not positions:
            return np.empty(0, np.int64), np.empty(0, np.uint32), *results
        return np.concatenate(positions), np.concatenate(rules), *results

    def _make_room(self, size: int) -> None:
        """Make room for a decoded payload of this size."""
        if size > len(self._decoded):
            self._decoded = np.empty(size, np.uint8)
            self._matcher.decoded = self._decoded.ctypes.data
            self._matcher.decoded_size = size

    def _fill(self, stage: _Stage, plan: StagePlan) -> None:
        if len(plan.deciders) > MOST_STEPS:
            raise SensorError(f"a stage has more than {MOST_STEPS} deciders; this is a bug: please report it")
        stage.screen = self._load(plan.screen)
        stage.count = len(plan.deciders)
        for step, (bit, part, databases) in zip(stage.steps, plan.deciders, strict=False):
            step.database, step.bit, step.part = self._load(databases), bit, part

    def _load(self, databases: Databases) -> _Database:
        """Load a pair of databases, once, and make the scratch space large enough for them."""
        if databases.whole is None or databases.sliced is None:
            return _Database()
        if databases not in self._loaded:
            whole, sliced = self._deserialised(databases.whole), self._deserialised(databases.sliced)
            stream = ctypes.c_void_p()
            check_hyperscan(hyperscan_library.hs_open_stream(sliced, 0, ctypes.byref(stream)))
            self._streams.append(stream)
            self._loaded[databases] = _Database(whole, stream)
        return self._loaded[databases]

    def _deserialised(self, serial: bytes) -> ctypes.c_void_p:
        database = ctypes.c_void_p()
        size = ctypes.c_size_t(len(serial))
        check_hyperscan(hyperscan_library.hs_deserialize_database(serial, size, ctypes.byref(database)))
        self._owned.append(database)
        check_hyperscan(hyperscan_library.hs_alloc_scratch(database, ctypes.byref(self._scratch)))
        return database


def _pointer(function: object) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
