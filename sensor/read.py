"""``sensor read``: match capture files with the same code that matches live frames.

Needs neither root nor BCC.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.config.settings import Settings
from sensor.counters import Counters
from sensor.errors import CaptureFileError, EvidenceError
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.capture_store import CaptureStore
from sensor.evidence.conversation_tracker import ConversationTracker
from sensor.evidence.file_context import FileContext
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.open_conversation import ContextLimits
from sensor.evidence.suppression import Suppressor
from sensor.files.byte_source import STANDARD_INPUT
from sensor.files.capture_file import CaptureFile
from sensor.files.content_digest import ContentDigest, digest_of
from sensor.files.undecoded import batches_of
from sensor.model import FrameBatch, Rule
from sensor.native.frame_history import FileHistory
from sensor.pipeline import Pipeline
from sensor.rules.context import wants_context
from sensor.rules.engine.profile import PROFILES
from sensor.rules.prefilter.networks import Networks
from sensor.rules.progress import Watch, unwatched
from sensor.rules.ready import make_ready
from sensor.text import count_of

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
    context = _context(settings, pipeline) if evidence else None
    writer = IndexedWriter(evidence, settings.devid, local_time=settings.local_time) if evidence else None
    for recovery in writer.recovered if writer else ():
        log.warning("%s", recovery)
    if writer and writer.reconcile():
        log.warning("some evidence of earlier runs is not indexed; index it with: sensor evidence reindex")
    store: CaptureStore | None = None
    try:
        with closing(writer) if writer else nullcontext():
            store = CaptureStore(writer, _judging(settings, ready.rules.digest)) if writer else None
            fault = _read_files(files, pipeline, suppressor, store, context, emit, progress)
            if store and context:
                store.note(context.close())
                _log_context(context, store)
    finally:
        failed = _log_counters(pipeline, suppressor, writer, store.stored_before if store else 0)
    if fault:
        raise fault
    if failed:
        raise EvidenceError(f"{failed} frames could not be written to {evidence}; see the log")


def _is_pipe(path: Path) -> bool:
    with suppress(OSError):  # opening it raises an error that names the file
        return path.is_fifo()
    return False


def _read_files(
    files: Sequence[Path],
    pipeline: Pipeline,
    suppressor: Suppressor,
    store: CaptureStore | None,
    context: FileContext | None,
    emit: Emit,
    progress: Progress,
) -> CaptureFileError | None:
    """Read files; return the last error, and log those before it."""
    fault: CaptureFileError | None = None
    for path in files:
        digest = digest_of(path, store.may_have) if store else ContentDigest()
        try:
            with (
                CaptureFile(path, digest if store and not digest.is_complete else None) as file,
                store.reading(path, digest) if store else nullcontext(),
            ):
                _read_file(file, pipeline, suppressor, store, context, emit, progress)
        except CaptureFileError as error:
            if path != files[-1]:
                log.error("%s", error)  # noqa: TRY400 - a traceback adds nothing
            fault = error
    return fault


def _read_file(
    file: CaptureFile,
    pipeline: Pipeline,
    suppressor: Suppressor,
    store: CaptureStore | None,
    context: FileContext | None,
    emit: Emit,
    progress: Progress,
) -> None:
    position = 0
    try:
        for batch in batches_of(file, pipeline):
            if store and context:
                block = _keep_conversations(batch, pipeline, suppressor, store, context)
            else:
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


def _context(settings: Settings, pipeline: Pipeline) -> FileContext | None:
    """Return what follows conversations; None if no rule asks for them."""

    def wants(rules: Sequence[Rule]) -> NDArray[np.bool_]:
        return wants_context(rules, settings.context)

    if not wants(pipeline.matcher.rules).any():
        return None
    flow_hash, profile = pipeline.flow_hash, PROFILES[settings.profile]
    limits = ContextLimits(settings.context_packets, settings.context_kib << 10, settings.context_seconds)
    tracker = ConversationTracker(wants, flow_hash.of_fragments, limits, clock="time_ns")
    history = (
        FileHistory(settings.history_mib, settings.history_flow_kib, profile.idle_s, profile.life_s)
        if settings.history_mib
        else None
    )
    networks = Networks(settings.networks_include, settings.networks_exclude)
    return FileContext(tracker, flow_hash, networks, history)


def _keep_conversations(
    batch: FrameBatch,
    pipeline: Pipeline,
    suppressor: Suppressor,
    store: CaptureStore,
    context: FileContext,
) -> EvidenceBlock:
    """Write the evidence of a batch with its context; return the matches."""
    numbered = replace(batch, interface=np.arange(len(batch)))
    block = suppressor.admit(pipeline.process(numbered))
    positions = block.items["interface"].astype(np.intp)
    block.items["interface"] = batch.interface[positions]
    kept = context.add(batch, block, positions)
    for one in kept.blocks:
        store.write(one)
    store.note(kept.notes)
    return block


def _judging(settings: Settings, rules: str) -> str:
    """Return a digest of what decides which frames of a file become evidence."""
    deciding = (
        rules,
        settings.keep,
        settings.profile,
        settings.lenient,
        settings.suppress_above,
        (settings.context, settings.context_packets, settings.context_kib, settings.context_seconds),
        (settings.history_mib, settings.history_flow_kib),
        list(map(str, settings.networks_include)),
        list(map(str, settings.networks_exclude)),
    )
    return hashlib.sha256(repr(deciding).encode()).hexdigest()


def _log_context(context: FileContext, store: CaptureStore) -> None:
    tracker = context.tracker
    if store.context_written:
        log.info(
            "context: %s of %s were written",
            count_of(store.context_written, "frame"),
            count_of(tracker.opened, "conversation"),
        )
    if refused := {cause: count for cause, count in tracker.refused.items() if count}:
        log.warning(
            "the context of %s was not kept, by the budget that was used up: %s",
            count_of(sum(refused.values()), "conversation"),
            ", ".join(f"{cause} {count}" for cause, count in refused.items()),
        )


def _log_counters(
    pipeline: Pipeline, suppressor: Suppressor, writer: IndexedWriter | None, stored_before: int
) -> int:
    """Log what was read and written; return the number of frames that could not be written."""
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
    return counters.write_failed + (writer.context_failed if writer else 0)
