"""The sandbox of a process beside the supervisor: what it keeps of the rights it was started with.

A process enters its sandbox once it has opened what it needs, and before it reads a byte that an attacker may
have chosen. From then on it has a user of its own, no capabilities, no descriptors but those it names, the
system calls of its role (`sensor.process.syscall_filter`) and, with Landlock, the files and ports it names.
Nothing of that can be taken back.
"""

from __future__ import annotations

import logging
import os
import sysconfig
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import numpy.ma  # noqa: F401 - numpy imports it at the first use, when a process may no longer open files

from sensor.errors import PrivilegeError
from sensor.process.accounts import (
    SWITCHING,
    ProcessRole,
    ProcessUser,
    can_switch_users,
    identity_of,
    switch_to,
)
from sensor.process.capabilities import (
    empty_bounding_set,
    keep_capabilities,
    pass_on,
    without_capabilities,
)
from sensor.process.landlock import NO_ACCESS, Access, restrict_self
from sensor.process.prctl import (
    end_with_parent,
    forbid_inspection,
    forbid_new_privileges,
    keep_permitted_capabilities,
)
from sensor.process.shared_mappings import unmap_all_but
from sensor.process.syscall_filter import Calls, check_library, restrict_calls

NEEDS = {
    ProcessRole.WORKER: Calls.NONE,
    ProcessRole.RECALLER: Calls.NONE,
    ProcessRole.EXPORTER: Calls.ACCEPT | Calls.THREADS | Calls.READ_FILES | Calls.READ_NICS | Calls.READ_MAPS,
    ProcessRole.EVENT_SENDER: Calls.CONNECT
    | Calls.THREADS
    | Calls.READ_FILES
    | Calls.CODE
    | Calls.MEMORY_FILES,
    ProcessRole.EVENT_FILES: Calls.UNIX | Calls.READ_FILES | Calls.CHANGE_FILES,
    ProcessRole.INDEXER: Calls.READ_FILES | Calls.CHANGE_FILES | Calls.DATABASES,
    ProcessRole.RETENTION: Calls.READ_FILES | Calls.DELETE_FILES,
    ProcessRole.REINDEXER: Calls.READ_FILES | Calls.THREADS | Calls.CODE,
    ProcessRole.COMPILER: Calls.THREADS | Calls.TIMERS,
    ProcessRole.HOLD_KEEPER: Calls.READ_FILES | Calls.CHANGE_FILES,
    ProcessRole.API: Calls.ACCEPT | Calls.READ_FILES | Calls.TRY_WRITING | Calls.THREADS | Calls.CODE,
}
"""System calls of each role."""

LIBRARIES = tuple(
    Path(path)
    for path in dict.fromkeys(
        (
            *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
            str(Path(__file__).parents[1]),
            "/usr/lib",
            "/usr/lib64",
            "/usr/local/lib",
            "/lib",
            "/lib64",
        )
    )
)
"""Directories of code, which Python and the C library may load at the first use."""
NAME_SERVICE = tuple(
    map(Path, ("/etc", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/nscd"))
)
"""Files for looking up host names."""

_ENDING_S = 1.0

log = logging.getLogger(__name__)


def prepare() -> None:
    """Check that sandboxes can be entered; call this in the supervisor before any child is started.

    Programs that it starts get only the capabilities with which they switch to their own user.

    Raises:
        PrivilegeError: A library is missing, an account cannot be used, or the kernel or the service
            manager refuses a step.
    """
    check_library()
    _try_sandbox()
    for role in (
        ProcessRole.WORKER,
        ProcessRole.EXPORTER,
        ProcessRole.EVENT_SENDER,
        ProcessRole.REINDEXER,
        ProcessRole.COMPILER,
        ProcessRole.RECALLER,
    ):
        identity_of(role)
    pass_on(*SWITCHING)
    if not can_switch_users():
        *others, last = SWITCHING
        log.warning(
            "the processes of this sensor share one user and can disturb each other; "
            "start it as root, or also with %s and %s",
            ", ".join(others),
            last,
        )


def _try_sandbox() -> None:
    """Let a child enter a sandbox: a refusal is then an error at the start, not the death of every worker."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            enter(ProcessRole.WORKER, descriptors=[theirs])
        except PrivilegeError as error:
            os.write(theirs, str(error).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        refusal = answer.read().decode()
    os.waitpid(pid, 0)
    if refusal:
        raise PrivilegeError(
            f"{refusal}; a service or container must allow the system calls that sensor@.service names"
        )


def enter(
    role: ProcessRole,
    *,
    descriptors: Collection[int] | None = (),
    streams: Collection[int] = (2,),
    shared: Collection[int] | None = None,
    identity: ProcessUser | None = None,
    groups: Sequence[int] = (),
    access: Access = NO_ACCESS,
    capabilities: Sequence[str] = (),
    supervisor: int | None = None,
) -> None:
    """Give up all rights but these, for good.

    Args:
        role: Decides on the user and the system calls.
        descriptors: Those that stay open, besides the standard streams. None: all stay.
        streams: Standard streams that stay; the others become ``/dev/null``.
        shared: An address in each shared mapping that stays. A fork inherits those of its parent. None: all
            stay.
        identity: User and group to switch to. None: those of the role, unless this process may not switch
            users.
        groups: Supplementary groups.
        access: Files and ports that stay usable.
        capabilities: Capabilities to keep.
        supervisor: Process id of the parent, with which this process is to end.

    Raises:
        PrivilegeError: The kernel refuses a step, or the process has threads, which would keep their rights.
    """
    try:
        _require_one_thread(role)
        if descriptors is not None:
            _close_all_but(descriptors, streams)
        if shared is not None:
            unmap_all_but(shared)
        with suppress(PermissionError):  # a service manager may have emptied it
            empty_bounding_set()
        if identity is None and can_switch_users():
            identity = identity_of(role)
        if identity is not None and identity.uid != os.geteuid():
            keep_permitted_capabilities()
            switch_to(identity, groups)
        keep_capabilities(*capabilities)
        if supervisor is not None:
            end_with_parent(supervisor)
        forbid_inspection()
        forbid_new_privileges()
        restrict_self(access)
        restrict_calls(NEEDS[role])
    except OSError as error:
        raise PrivilegeError(f"{role.value}: cannot enter the sandbox: {error.strerror}") from error


def enter_as_owner(
    role: ProcessRole,
    directory: Path,
    *,
    descriptors: Collection[int],
    access: Access,
    supervisor: int | None = None,
) -> None:
    """Give up all rights but those to a directory, as the user who has them now; see `enter`.

    ``access`` names the directory with what is done to its files. If this is root, it may be anybody's, and
    one capability is kept for that.
    """
    with without_capabilities():
        is_ours = os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
    enter(
        role,
        descriptors=descriptors,
        identity=ProcessUser("", os.geteuid(), os.getegid()),
        access=access,
        capabilities=() if is_ours else ["CAP_DAC_OVERRIDE"],
        supervisor=supervisor,
    )


def _require_one_thread(role: ProcessRole) -> None:
    """Wait until threads that are ending have ended.

    Raises:
        PrivilegeError: Some do not end.
    """
    deadline_s = time.monotonic() + _ENDING_S
    while len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208
        if time.monotonic() > deadline_s:
            raise PrivilegeError(f"{role.value}: cannot enter the sandbox: the process has several threads")
        time.sleep(0.001)


def _close_all_but(descriptors: Collection[int], streams: Collection[int]) -> None:
    """Close what was inherited: links would keep the program attached, pipes open and locks held."""
    null = os.open("/dev/null", os.O_RDWR)
    for stream in {0, 1, 2} - set(streams):
        os.dup2(null, stream)
    first = 3  # after the standard streams; os.closerange(0, 0) would close everything
    for descriptor in sorted(descriptors):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
