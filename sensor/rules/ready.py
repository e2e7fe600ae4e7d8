"""Load and compile rules, or read them from the cache of compiled rules.

Runs in the supervisor, in the thread that reloads rules, and in ``sensor read``. Compiling takes
seconds, during which a starting sensor sees nothing. So the result is kept in a cache directory that
no other user can write to: its content is trusted as much as the program itself.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import platform
import stat
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from sensor import DISTRIBUTION
from sensor.capture.program import KernelPlan
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_rules
from sensor.rules.files.rule_set import RuleSet, digest_of
from sensor.rules.prefilter.emit import kernel_plan
from sensor.rules.prefilter.plan import Plan, demands

KEPT = 8
"""Number of rule sets that are kept; the latest ones."""

_PACKAGES = ("hyperscan", "google-re2", "numpy", DISTRIBUTION)
_SUFFIX = ".rules"
_DIGEST_BYTES = hashlib.sha256().digest_size

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
    ready = _read_cached(path)
    if ready is None:
        rules = load_rules(directory, lenient=lenient)
        log.info("compiling %d rules", len(rules))
        ready = Ready(rules, Matcher(rules, http), kernel_plan(Plan.of(demands(rules, http)), http))
        if rules.digest == digest:  # otherwise a file has changed meanwhile
            _write_cached(path, ready)
    for fault in ready.rules.faults:
        log.warning("rule skipped: %s", fault)
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


def _read_cached(path: Path) -> Ready | None:
    """Return what an earlier run wrote; None if it is missing, damaged, or writable by other users."""
    try:
        if not (_is_ours(path.parent) and _is_ours(path)):
            return None
        content = path.read_bytes()
        digest, serial = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(serial).digest() != digest:
            return None
        ready = pickle.loads(serial)  # noqa: S301 - only this user and root can write it
    except OSError:
        return None
    except Exception as error:  # most likely from another processor; in any case, compile again
        log.info("cannot use the compiled rules in %s: %s; compiling them again", path, error)
        return None
    os.utime(path)
    return ready if isinstance(ready, Ready) else None


def _write_cached(path: Path, ready: Ready) -> None:
    """Keep the compiled rules for the next start; if that fails, the next start compiles them again."""
    serial = pickle.dumps(ready, pickle.HIGHEST_PROTOCOL)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(path.parent):
            log.info("compiled rules are not kept: other users can write to %s", path.parent)
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(serial).digest() + serial)
        Path(file.name).replace(path)
        for old in sorted(path.parent.glob(f"*{_SUFFIX}"), key=lambda one: -one.stat().st_mtime)[KEPT:]:
            old.unlink()
    except OSError as error:
        log.info("compiled rules are not kept: %s: %s", path.parent, error.strerror)


def _is_ours(path: Path) -> bool:
    """Return True if only this user and root can have written the file or directory."""
    status = path.lstat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
