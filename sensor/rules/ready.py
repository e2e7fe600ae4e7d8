"""Load and compile rules, or read them from the cache of compiled rules.

Runs in the supervisor, in the thread that reloads rules, and in ``sensor read``. Compiling takes
seconds, during which a starting sensor sees nothing. So the result is kept in a cache directory that
no other user can write to. A cached file is data: it holds JSON and Hyperscan's serialised databases.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import stat
import struct
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sensor import DISTRIBUTION, abi
from sensor.capture.plan_maps import FirstStates, KernelPlan
from sensor.model import Rule
from sensor.rules.engine.compiled_rules import dump, restore
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_rules
from sensor.rules.files.rule_fault import Fault
from sensor.rules.files.rule_set import RuleSet, digest_of
from sensor.rules.prefilter.plan import PORTS, Plan, demands
from sensor.rules.prefilter.tables import kernel_plan
from sensor.text import count_of

KEPT = 8
"""Number of rule sets that are kept; the latest ones."""

_PACKAGES = ("hyperscan", "google-re2", "numpy", DISTRIBUTION)
_SUFFIX = ".rules"
_HEADER = struct.Struct("<16s32sQ")
"""`_MAGIC`, SHA-256 of all that follows it, and the size of the JSON that comes next; then the blobs."""
_MAGIC = b"sensor rules 1\n\0"

log = logging.getLogger(__name__)


class Ready(NamedTuple):
    """A rule set, compiled for the matcher and for the kernel."""

    rules: RuleSet
    matcher: Matcher
    plan: KernelPlan
    """The packets that the kernel must pass on."""


def make_ready(directory: Path, http: HttpReading, *, lenient: bool) -> Ready:
    """Load and compile the rules of a directory, or read them from the cache. Skipped rules are logged.

    Raises:
        RulesError: There are faults; with ``lenient``: no rule file is usable.
    """
    digest = digest_of(directory)
    path = _cache_directory() / (_key(directory, digest, http, lenient=lenient) + _SUFFIX)
    ready = _read_cached(path, http)
    if ready is None:
        rules = load_rules(directory, lenient=lenient)
        log.info("compiling %s", count_of(len(rules), "rule"))
        ready = Ready(rules, Matcher(rules, http), kernel_plan(Plan.of(demands(rules, http)), http))
        if rules.digest == digest:  # otherwise a file has changed meanwhile
            _write_cached(path, ready)
    ready.matcher.batch_matcher  # noqa: B018 - loaded here, the databases are shared by all workers
    for fault in ready.rules.faults:
        log.warning("rule skipped: %s", fault)
    if ready.plan.merged:
        log.warning(
            "the rules ask for too many different first bytes: the kernel passes more payloads than needed"
        )
    for rule in ready.matcher.missed:
        log.warning("Hyperscan misses rule %d; RE2 decides it instead", rule.rule_id)
    return ready


def _cache_directory() -> Path:
    """Return systemd's cache directory (``CacheDirectory=``), or else the user's (XDG Base Directory)."""
    named = os.environ.get("CACHE_DIRECTORY")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sensor"


def _key(directory: Path, digest: str, http: HttpReading, *, lenient: bool) -> str:
    """Return a digest of everything the compiled rules depend on, including this program's sources."""
    sources = sorted(Path(__file__).parents[1].glob("**/*.py"))
    text = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    versions = [f"{package} {version(package)}" for package in _PACKAGES]
    inputs = (str(directory.resolve()), digest, repr(http), str(lenient))
    return hashlib.sha256(
        "\n".join((*inputs, text, *versions, sys.version, platform.platform())).encode()
    ).hexdigest()


def _read_cached(path: Path, http: HttpReading) -> Ready | None:
    """Return what an earlier run wrote; None if it is missing, damaged, or writable by other users."""
    try:
        if not (_is_ours(path.parent) and _is_ours(path)):
            return None
        ready = _unpack(path.read_bytes(), http)
    except OSError:
        return None
    except Exception as error:  # most likely from another processor; in any case, compile again
        log.info("cannot use the compiled rules in %s: %s; compiling them again", path, error)
        return None
    os.utime(path)
    return ready


def _write_cached(path: Path, ready: Ready) -> None:
    """Keep the compiled rules for the next start; if that fails, the next start compiles them again."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(path.parent):
            log.info("compiled rules are not kept: other users can write to %s", path.parent)
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(_pack(ready))
        Path(file.name).replace(path)
        for old in sorted(path.parent.glob(f"*{_SUFFIX}"), key=lambda one: -one.stat().st_mtime)[KEPT:]:
            old.unlink()
    except OSError as error:
        log.info("compiled rules are not kept: %s: %s", path.parent, error.strerror)


def _pack(ready: Ready) -> bytes:
    """Return the content of a cached file."""
    shape, databases = dump(ready.matcher)
    plan = ready.plan
    blobs = [*(table.tobytes() for table in (plan.ports, plan.rows, plan.prefixes)), *databases]
    faults = [asdict(fault) | {"path": str(fault.path)} for fault in ready.rules.faults]
    fields = {
        "rules": [asdict(rule) for rule in ready.rules],
        "digest": ready.rules.digest,
        "faults": faults,
        "first_states": plan.first,
        "merged_prefixes": plan.merged,
        "matcher": shape,
        "sizes": [len(blob) for blob in blobs],
    }
    text = json.dumps(fields).encode()
    body = b"".join((len(text).to_bytes(8, "little"), text, *blobs))
    return _MAGIC + hashlib.sha256(body).digest() + body


def _unpack(content: bytes, http: HttpReading) -> Ready:
    """Return what `_pack` was given.

    Raises:
        Exception: Of any kind: the content is damaged, or from another release or processor.
    """
    magic, digest, text_size = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise ValueError("not a file of compiled rules")
    if hashlib.sha256(memoryview(content)[_HEADER.size - 8 :]).digest() != digest:
        raise ValueError("the digest is wrong")
    start = _HEADER.size + text_size
    fields: dict[str, Any] = json.loads(content[_HEADER.size : start])
    blobs = []
    for size in fields["sizes"]:
        blobs.append(content[start : start + size])
        start += size
    if start != len(content):
        raise ValueError("the sizes are wrong")
    rules = tuple(Rule(**rule) for rule in fields["rules"])
    faults = tuple(Fault(**fault | {"path": Path(fault["path"])}) for fault in fields["faults"])
    ports, rows, prefixes, *databases = blobs
    return Ready(
        RuleSet(rules, fields["digest"], faults),
        restore(rules, http, fields["matcher"], databases),
        KernelPlan(
            FirstStates(*fields["first_states"]),
            np.frombuffer(ports, np.uint32).reshape(2, PORTS),
            np.frombuffer(rows, np.uint32),
            np.frombuffer(prefixes, abi.PLAN_PREFIX),
            fields["merged_prefixes"],
        ),
    )


def _is_ours(path: Path) -> bool:
    """Return True if only this user and root can have written the file or directory."""
    status = path.lstat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
