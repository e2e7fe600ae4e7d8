"""Rules made ready for use: loaded and compiled, or taken from where an earlier run left them.

Runs in the supervisor, in ``sensor read``, and in the thread that reloads. Compiling takes seconds,
in which a sensor that is starting sees nothing; what came of it is therefore kept, in a directory
that nobody else can write: what is found there is trusted as the program itself is.
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
from sensor.rules.files.load import RuleSet, digest_of, load_rules
from sensor.rules.prefilter.emit import kernel_plan
from sensor.rules.prefilter.plan import Plan, demands

KEPT = 8
"""Rule sets that are kept, the latest ones."""

_PACKAGES = ("hyperscan", "google-re2", "numpy", DISTRIBUTION)
_SUFFIX = ".rules"
_DIGEST_BYTES = hashlib.sha256().digest_size

log = logging.getLogger(__name__)


class Ready(NamedTuple):
    """A rule set with all that it needs at work."""

    rules: RuleSet
    matcher: Matcher
    plan: KernelPlan
    """What the kernel has to let through."""


def make_ready(directory: Path, http: HttpReading, *, lenient: bool) -> Ready:
    """Load and compile the rules of a directory, or find that done; the log names rules that were skipped.

    Raises:
        RulesError: A rule is wrong and this is not lenient, or no rule is left.
    """
    digest = digest_of(directory)
    path = _cache_directory() / (_key(directory, digest, http, lenient=lenient) + _SUFFIX)
    ready = _take(path)
    if ready is None:
        rules = load_rules(directory, lenient=lenient)
        log.info("compiling %d rules", len(rules))
        ready = Ready(rules, Matcher(rules, http), kernel_plan(Plan.of(demands(rules, http)), http))
        if rules.digest == digest:  # else a file was changed meanwhile
            _keep(path, ready)
    for fault in ready.rules.faults:
        log.warning("rule skipped: %s", fault)
    for rule in ready.matcher.missed:
        log.warning("rule %d is decided by RE2, Hyperscan misses it", rule.rule_id)
    return ready


def _cache_directory() -> Path:
    """Systemd names one for a service (CacheDirectory=); otherwise the user's (XDG Base Directory)."""
    named = os.environ.get("CACHE_DIRECTORY")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sensor"


def _key(directory: Path, digest: str, http: HttpReading, *, lenient: bool) -> str:
    """Name everything that what is compiled depends on, this program's own text included."""
    sources = sorted(Path(__file__).parents[1].glob("**/*.py"))
    text = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    versions = [f"{package} {version(package)}" for package in _PACKAGES]
    place = (str(directory.resolve()), digest, repr(http), str(lenient))
    return hashlib.sha256(
        "\n".join((*place, text, *versions, sys.version, platform.platform())).encode()
    ).hexdigest()


def _take(path: Path) -> Ready | None:
    try:
        if not (_is_ours(path.parent) and _is_ours(path)):
            return None
        content = path.read_bytes()
        digest, serial = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(serial).digest() != digest:
            return None
        ready = pickle.loads(serial)  # noqa: S301 - we wrote it, where nobody else can
    except OSError:
        return None
    except Exception as error:  # of another processor, most likely: whatever it is, compiling is the answer
        log.info("%s is of no use here (%s)", path, error)
        return None
    os.utime(path)
    return ready if isinstance(ready, Ready) else None


def _keep(path: Path, ready: Ready) -> None:
    """Put it there for the next start; where that cannot be, the next start compiles anew."""
    serial = pickle.dumps(ready, pickle.HIGHEST_PROTOCOL)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(path.parent):
            log.info("compiled rules are not kept: others can write %s", path.parent)
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(serial).digest() + serial)
        Path(file.name).replace(path)
        for old in sorted(path.parent.glob(f"*{_SUFFIX}"), key=lambda one: -one.stat().st_mtime)[KEPT:]:
            old.unlink()
    except OSError as error:
        log.info("compiled rules are not kept: %s: %s", path.parent, error.strerror)


def _is_ours(path: Path) -> bool:
    """Whether nobody but this user (and root) can have written it."""
    status = path.lstat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
