"""Attempts of a worker that was taken over against another worker, which has the same user."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import wait_until
from sandboxed import attempt, status_of, waiting

from sensor.process import sandbox, syscall_filter
from sensor.process.accounts import ProcessRole

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root privileges to drop")

PTRACE_SEIZE = 0x4206
IPC_CREAT = 0o1000
libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    """Raise the error of a call of the C library."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def copy_memory(copy: str, pid: int) -> None:
    """Read or write the memory of a process (process_vm_readv(2))."""
    word = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(word), 8)
    checked(getattr(libc, copy)(pid, vector, 1, vector, 1, 0))


def have_signals_sent(pid: int) -> None:
    """Let the kernel signal a process when a socket of ours can be read (fcntl(2), F_SETOWN)."""
    ours, _ = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETOWN, pid)


def system_call(name: str, *arguments: int) -> None:
    """Make a system call that the C library has no function for."""
    number = syscall_filter.seccomp.resolve_syscall(syscall_filter.seccomp.Arch(), name)
    checked(libc.syscall(number, *(ctypes.c_long(argument) for argument in arguments)))


ATTEMPTS: dict[str, tuple[Callable[[int], object], str]] = {
    "kill": (lambda pid: os.kill(pid, signal.SIGKILL), "EPERM"),
    "tgkill": (lambda pid: system_call("tgkill", pid, pid, signal.SIGKILL), "EPERM"),
    "tkill": (lambda pid: system_call("tkill", pid, signal.SIGKILL), "EPERM"),
    "sigqueue": (lambda pid: checked(libc.sigqueue(pid, signal.SIGKILL, None)), "EPERM"),
    "pidfd": (lambda pid: os.pidfd_open(pid), "EPERM"),
    "pidfd_send_signal": (lambda _pid: system_call("pidfd_send_signal", 0, signal.SIGKILL, 0, 0), "EPERM"),
    "pidfd_getfd": (lambda _pid: system_call("pidfd_getfd", 0, 0, 0), "SIGSYS"),
    "signal of a socket": (have_signals_sent, "EPERM"),
    "attach": (lambda pid: checked(libc.ptrace(PTRACE_SEIZE, pid, 0, 0)), "SIGSYS"),
    "read memory": (lambda pid: copy_memory("process_vm_readv", pid), "SIGSYS"),
    "write memory": (lambda pid: copy_memory("process_vm_writev", pid), "SIGSYS"),
    "open memory": (lambda pid: os.open(f"/proc/{pid}/mem", os.O_RDWR), "EPERM"),
    "open descriptor": (lambda pid: os.open(f"/proc/{pid}/fd/0", os.O_RDWR), "EPERM"),
    "move memory": (lambda pid: system_call("migrate_pages", pid, 0, 0, 0), "EPERM"),
    "compare": (lambda pid: system_call("kcmp", os.getpid(), pid, 0, 0, 0), "SIGSYS"),
    "limit": (lambda pid: resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0)), "EPERM"),
    "read limit": (lambda pid: resource.prlimit(pid, resource.RLIMIT_CPU), "EPERM"),
    "priority": (lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19), "EPERM"),
    "priority of the user": (lambda _pid: os.setpriority(os.PRIO_USER, 0, 19), "EPERM"),
    "scheduler": (lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)), "EPERM"),
    "affinity": (lambda pid: os.sched_setaffinity(pid, {0}), "EPERM"),
    "shared memory": (lambda _pid: checked(libc.shmget(1, 4096, IPC_CREAT | 0o600)), "EPERM"),
    "message queue": (lambda _pid: checked(libc.msgget(1, IPC_CREAT | 0o600)), "EPERM"),
    "semaphore": (lambda _pid: checked(libc.semget(1, 1, IPC_CREAT | 0o600)), "EPERM"),
    "unix socket": (lambda _pid: socket.socket(socket.AF_UNIX), "EPERM"),
}


@pytest.fixture(params=["with Landlock", "without Landlock"])
def _landlock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out Landlock, which older kernels do not have, or not for signals."""
    if request.param == "without Landlock":
        monkeypatch.setattr(sandbox, "restrict_self", lambda _access: None)


@pytest.mark.usefixtures("_landlock")
@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_worker_cannot_reach_another(name: str) -> None:
    """It is not signalled, read, changed, slowed down or talked to."""
    action, outcome = ATTEMPTS[name]
    with waiting(ProcessRole.WORKER) as other:
        wait_until(lambda: status_of(other)["State"].startswith("S"))
        before = state_of(other)
        assert attempt(ProcessRole.WORKER, lambda: action(other)) == outcome
        assert state_of(other) == before


def state_of(pid: int) -> tuple[object, ...]:
    """Return what another process could have changed: whether it runs, its limits, priority and CPUs."""
    status = status_of(pid)
    return (
        status["State"],
        status["TracerPid"],
        status["SigPnd"],
        Path(f"/proc/{pid}/limits").read_text(),
        os.getpriority(os.PRIO_PROCESS, pid),
        os.sched_getscheduler(pid),
        os.sched_getaffinity(pid),
    )


def test_these_attempts_can_succeed() -> None:
    """They fail because of the sandbox: a process of the same user outside of one succeeds."""
    uid = 12345

    def drop() -> None:
        os.setresuid(uid, uid, uid)

    with waiting(None, drop) as other:
        for name in ("limit", "priority", "affinity", "pidfd", "read limit", "signal of a socket", "kill"):
            assert succeeds(lambda name=name: (drop(), ATTEMPTS[name][0](other))), name


def succeeds(action: Callable[[], object]) -> bool:
    """Call a function in a child; return True if it raises no error."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0
