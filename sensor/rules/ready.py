"""Rules that are ready for use: compiled in a process of its own, or read from the cache of compiled rules.

Runs in the supervisor, in the thread that reloads rules, and in ``sensor read``. Compiling takes
seconds, during which a starting sensor sees nothing. So the result is kept in a cache directory that
no other user can write to. A cached file is data: it holds JSON and Hyperscan's serialised databases.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import struct
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from sensor import DISTRIBUTION
from sensor.rules.compilation.ready_codec import Ready, decode_ready, encode_ready
from sensor.rules.compilation.rule_compiler import check_rules, compile_rules
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.files.rule_set import RuleSet
from sensor.rules.files.rule_sources import RuleSources
from sensor.rules.progress import Phase, Progress, Watch, unwatched
from sensor.text import count_of

__all__ = ["Ready", "load_and_log", "make_ready"]

KEPT = 8
"""Number of rule sets that are kept; the latest ones."""

_PACKAGES = ("hyperscan", "google-re2", "numpy", DISTRIBUTION)
_SUFFIX = ".rules"
_HEADER = struct.Struct("<16s32s")
"""`_MAGIC`, and SHA-256 of all that follows it."""
_MAGIC = b"sensor rules 2\n\0"

log = logging.getLogger(__name__)


def make_ready(
    directory: Path,
    http: HttpReading,
    *,
    lenient: bool,
    yields: bool = False,
    watch: Watch = unwatched,
) -> Ready:
    """Compile the rules of a directory, or read them from the cache; log that, and which rules were skipped.

    ``yields`` and ``watch`` are those of `compile_rules`.

    Raises:
        RulesError: There are faults; with ``lenient``: no rule file is usable.
    """
    ready = find_ready(directory, http, lenient=lenient, yields=yields, watch=_Announcement(watch))
    _log_faults(ready.rules)
    if ready.plan.merged:
        log.warning(
            "the rules ask for too many different first bytes: the kernel passes more payloads than needed"
        )
    for rule in ready.matcher.missed:
        log.warning("Hyperscan misses rule %d; RE2 decides it instead", rule.rule_id)
    return ready


def find_ready(
    directory: Path,
    http: HttpReading,
    *,
    lenient: bool,
    find_all: bool = False,
    yields: bool = False,
    watch: Watch = unwatched,
) -> Ready:
    """Compile the rules of a directory, or read them from the cache.

    The flags and ``watch`` are those of `compile_rules`.

    Raises:
        RulesError: As for `make_ready`.
    """
    sources = RuleSources.read(directory)
    path = _cache_directory() / (_key(sources, http, lenient=lenient) + _SUFFIX)
    ready = None if sources.faults else _read_cached(path, directory, http)
    if ready is None:
        ready = compile_rules(sources, http, lenient=lenient, find_all=find_all, yields=yields, watch=watch)
        if not sources.faults:
            _write_cached(path, ready)
    return ready


def load_and_log(directory: Path, *, lenient: bool) -> RuleSet:
    """Load rules, in a process of its own, without compiling them; log the ones that were skipped.

    Raises:
        RulesError: There are faults; with ``lenient``: no rule file is usable.
    """
    rules = check_rules(directory, lenient=lenient)
    _log_faults(rules)
    return rules


def _log_faults(rules: RuleSet) -> None:
    for fault in rules.faults:
        log.warning("rule skipped: %s", fault)


class _Announcement:
    """Passes progress on, and writes one line to the log when the number of rules is known."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._is_due = True

    def __call__(self, progress: Progress) -> None:
        if self._is_due and progress.phase > Phase.READ:
            self._is_due = False
            log.info("compiling %s", count_of(progress.total, "rule"))
        self._watch(progress)


def _cache_directory() -> Path:
    """Return systemd's cache directory (``CacheDirectory=``), or else the user's (XDG Base Directory)."""
    named = os.environ.get("CACHE_DIRECTORY")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sensor"


def _key(sources: RuleSources, http: HttpReading, *, lenient: bool) -> str:
    """Return a digest of everything the compiled rules depend on, including this program's sources."""
    modules = sorted(Path(__file__).parents[1].glob("**/*.py"))
    text = hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()
    versions = [f"{package} {version(package)}" for package in _PACKAGES]
    inputs = (sources.digest, repr(http), str(lenient))
    return hashlib.sha256(
        "\n".join((*inputs, text, *versions, sys.version, platform.platform())).encode()
    ).hexdigest()


def _read_cached(path: Path, directory: Path, http: HttpReading) -> Ready | None:
    """Return what an earlier run wrote; None if it is missing, damaged, or writable by other users."""
    try:
        if not (_is_ours(path.parent) and _is_ours(path)):
            return None
        ready = _unpack(path.read_bytes(), directory, http)
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
    body = encode_ready(ready)
    return _HEADER.pack(_MAGIC, hashlib.sha256(body).digest()) + body


def _unpack(content: bytes, directory: Path, http: HttpReading) -> Ready:
    """Return what `_pack` was given.

    Raises:
        Exception: Of any kind: the content is damaged, or from another release or processor.
    """
    magic, digest = _HEADER.unpack_from(content)
    body = content[_HEADER.size :]
    if magic != _MAGIC:
        raise ValueError("not a file of compiled rules")
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("the digest is wrong")
    return decode_ready(body, directory, http)


def _is_ours(path: Path) -> bool:
    """Return True if only this user and root can have written the file or directory."""
    status = path.lstat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
