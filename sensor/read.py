"""``sensor read``: match capture files with the same code that matches live frames.

Needs neither root nor BCC.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext, suppress
from pathlib import Path

from sensor.config.settings import Settings
from sensor.counters import Counters
from sensor.errors import CaptureFileError, EvidenceError
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.capture_store import CaptureStore
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.suppression import Suppressor
from sensor.files.byte_source import STANDARD_INPUT
from sensor.files.capture_file import CaptureFile
from sensor.files.content_digest import ContentDigest, digest_of
from sensor.files.undecoded import batches_of
from sensor.pipeline import Pipeline
from sensor.rules.engine.profile import PROFILES
from sensor.rules.prefilter.networks import Networks
from sensor.rules.progress import Watch, unwatched
from sensor.rules.ready import make_ready

log = logging.getLogger(__name__)

Emit = Callable[[EvidenceBlock], None]
Progress = Callable[[int], None]
"""Called with the number of bytes read since the last call."""


def read(
    paths: Iterable[Path],
    settings: Settings,
    evidence: Path | None,
    emit: Emit,
    progress: Progress,
    watch: Watch = unwatched,
) -> None:
    """Match every frame of the files, in order; write the evidence to the directory ``evidence``, if given.

    Evidence that a file already has there, because it was read before, is not written again. All files are
    checked before the first one is read. ``emit`` is called with the evidence of each batch, and ``watch``
    with the progress of compiling the rules.

    Raises:
        RulesError: A rule is wrong.
        CaptureFileError: A file is missing or no capture file; or it is damaged, and the others are done.
        EvidenceError: Evidence cannot be written, or some could not be.
    """
    files = list(paths)
    for path in files:
        if path != STANDARD_INPUT and not _is_pipe(path):  # bytes read from a pipe could not be read again
            CaptureFile(path).close()
    ready = make_ready(settings.rules, PROFILES[settings.profile].http, lenient=settings.lenient, watch=watch)
    networks = Networks(settings.networks_include, settings.networks_exclude)
    pipeline = Pipeline(
        ready.matcher,
        settings.keep,
        settings.profile,
        live=False,
        networks=networks,
        digest=ready.rules.digest,
    )
    suppressor = Suppressor(settings.suppress_above)
    writer = IndexedWriter(evidence, settings.devid, local_time=settings.local_time) if evidence else None
    for recovery in writer.recovered if writer else ():
        log.warning("%s", recovery)
    if writer and writer.reconcile():
        log.warning("some evidence of earlier runs is not indexed; index it with: sensor evidence reindex")
    fault: CaptureFileError | None = None
    store: CaptureStore | None = None
    try:
        with closing(writer) if writer else nullcontext():
            store = CaptureStore(writer, _judging(settings, ready.rules.digest)) if writer else None
            for path in files:
                digest = digest_of(path, store.may_have) if store else ContentDigest()
                try:
                    with (
                        CaptureFile(path, digest if store and not digest.is_complete else None) as file,
                        store.reading(path, digest) if store else nullcontext(),
                    ):
                        _read_file(file, pipeline, suppressor, store, emit, progress)
                except CaptureFileError as error:
                    if path != files[-1]:
                        log.error("%s", error)  # noqa: TRY400 - a traceback adds nothing
                    fault = error
    finally:
        counters = _log_counters(pipeline, suppressor, writer, store.stored_before if store else 0)
    if fault:
        raise fault
    if counters.write_failed:
        raise EvidenceError(
            f"{counters.write_failed} matched frames could not be written to {evidence}; see the log"
        )


def _is_pipe(path: Path) -> bool:
    with suppress(OSError):  # opening it raises an error that names the file
        return path.is_fifo()
    return False


def _read_file(
    file: CaptureFile,
    pipeline: Pipeline,
    suppressor: Suppressor,
    store: CaptureStore | None,
    emit: Emit,
    progress: Progress,
) -> None:
    position = 0
    try:
        for batch in batches_of(file, pipeline):
            block = suppressor.admit(pipeline.process(batch))
            if block and store:
                store.write(block)
            emit(block)
            progress(file.position_bytes - position)
            position = file.position_bytes
    except CaptureFileError:
        if store:
            file.skip_rest()  # the digest is that of the whole file
        raise


def _judging(settings: Settings, rules: str) -> str:
    """Return a digest of what decides which frames of a file become evidence."""
    deciding = (
        rules,
        settings.keep,
        settings.profile,
        settings.lenient,
        settings.suppress_above,
        list(map(str, settings.networks_include)),
        list(map(str, settings.networks_exclude)),
    )
    return hashlib.sha256(repr(deciding).encode()).hexdigest()


def _log_counters(
    pipeline: Pipeline, suppressor: Suppressor, writer: IndexedWriter | None, stored_before: int
) -> Counters:
    counters = Counters(
        read=pipeline.read,
        undecodable=pipeline.undecodable,
        unmatched=pipeline.unmatched,
        matched=pipeline.matched,
        suppressed=suppressor.suppressed,
        written=writer.written if writer else 0,
        write_failed=writer.write_failed if writer else 0,
        cut=pipeline.matcher.cut,
    )
    for path in writer.paths if writer else ():
        log.info("evidence: %s", path)
    log.info("counters: %s", counters.as_json_of_files(kept=writer is not None, stored_before=stored_before))
    return counters
