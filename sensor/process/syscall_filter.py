"""System calls that the processes beside the supervisor may still make (seccomp(2)).

Runs in those processes. A filter allows a list. Other calls fail with EPERM, so that a call of a newer C
library costs a function rather than the process; calls that only an intruder makes kill the process. The
kernel logs both (``journalctl --dmesg --grep type=1326``).

libseccomp comes from the distribution (python3-seccomp), which builds it for the kernels it ships.
"""

from __future__ import annotations

import errno
import os
import socket
from enum import Flag, auto
from typing import Any

from sensor.errors import PrivilegeError

try:
    import seccomp
except ImportError:
    seccomp = None

_BPF_MAP_LOOKUP_ELEM = 1
_CLONE_THREAD = 0x10000
_PROT_WRITE, _PROT_EXEC = 2, 4
_NOT_READING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)
_NOT_CREATING = os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)


_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1031, 1032, 1033, 1034)
"""Duplicates, flags, locks, pipe sizes and seals (linux/fcntl.h). The others could send signals."""
_IOCTLS = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX (asm-generic/ioctls.h)."""
_SIOCGIFNAME, _SIOCGIFINDEX, _SIOCETHTOOL = 0x8910, 0x8933, 0x8946
"""Requests of getaddrinfo(3), and of ethtool (linux/sockios.h)."""


class Calls(Flag):
    """Needs of a process beyond memory, time, and the descriptors it has."""

    NONE = 0
    READ_FILES = auto()
    """Open files for reading, list directories, lock, and query file systems."""
    TRY_WRITING = auto()
    """Open files for writing, as SQLite tries first. Their permissions and Landlock forbid it."""
    CHANGE_FILES = auto()
    """Create, append to and rename files."""
    DELETE_FILES = auto()
    """Delete files, and ask whether the clock is synchronised."""
    DATABASES = auto()
    """Write databases: SQLite removes files, and as root it tries to set their owner, which is refused."""
    CODE = auto()
    """Load shared libraries."""
    THREADS = auto()
    ACCEPT = auto()
    """Answer on listening sockets that are open."""
    CONNECT = auto()
    """Open sockets of IP and unix, and connect them; look up names."""
    UNIX = auto()
    """Open unix sockets and connect them."""
    READ_NICS = auto()
    """Ask NICs and the routing table for their figures."""
    READ_MAPS = auto()
    """Look up elements of BPF maps that are open."""
    MEMORY_FILES = auto()
    """Create files in memory."""
    TIMERS = auto()
    """Set timers that limit its own CPU time."""


_ALWAYS = """
    read readv pread64 preadv write writev pwrite64 pwritev close close_range lseek fstat dup dup2 dup3 pipe2
    recvfrom recvmsg sendto sendmsg shutdown getsockopt getsockname getpeername
    brk mremap munmap madvise membarrier mincore msync
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack
    poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2
    futex futex_waitv set_robust_list get_robust_list rseq sched_yield sched_getaffinity getcpu
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage getrandom
    getpid getppid gettid getuid geteuid getgid getegid getgroups getpgrp getsid getresuid getresgid uname
    exit exit_group restart_syscall pause
"""
"""Calls of CPython, numpy and the allocator, and those for waiting."""

_LISTS: dict[Calls, str] = {
    Calls.READ_FILES: """
        access faccessat faccessat2 stat lstat newfstatat statx readlink readlinkat getcwd getdents64 statfs
        fstatfs flock fadvise64 sendfile chdir umask
    """,
    Calls.CHANGE_FILES: "rename renameat renameat2 ftruncate fsync fdatasync",
    Calls.DELETE_FILES: "unlink unlinkat adjtimex clock_adjtime",
    Calls.DATABASES: "unlink unlinkat fchown",
    Calls.ACCEPT: "accept4 accept listen setsockopt socketpair",
    Calls.CONNECT: "connect bind setsockopt sendmmsg recvmmsg socketpair",
    Calls.UNIX: "connect setsockopt",
    Calls.READ_NICS: "bind connect setsockopt socketpair",
    Calls.MEMORY_FILES: "memfd_create ftruncate",
    Calls.TIMERS: "setitimer",
}

_DEADLY = """
    execve execveat ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd
    perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
    init_module finit_module delete_module kexec_load kexec_file_load reboot
    mount umount2 pivot_root chroot setns unshare fsopen fsmount move_mount open_tree mount_setattr
    setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset
    keyctl add_key request_key open_by_handle_at modify_ldt personality quotactl swapon swapoff acct
    iopl ioperm settimeofday clock_settime clock_adjtime adjtimex
"""
"""Calls that none of the processes makes once it is in its sandbox: an attempt means an intruder."""


def has_library() -> bool:
    """Return True if filters can be made."""
    return seccomp is not None


def check_library() -> None:
    """Check that filters can be made.

    Raises:
        PrivilegeError: The library is not installed.
    """
    if not has_library():
        raise PrivilegeError(
            "the Python module seccomp is missing, which confines the processes: "
            "apt-get install python3-seccomp; a virtual environment needs --system-site-packages"
        )


def restrict_calls(needs: Calls) -> None:
    """Allow this process, and what it starts, the calls for ``needs`` and no others, for good.

    This needs no_new_privs, and holds for all threads.

    Raises:
        PrivilegeError: The library is not installed.
        OSError: The kernel refuses.
    """
    check_library()
    if Calls.THREADS in needs:
        _refuse("clone3", errno.ENOSYS)  # the C library uses clone(2) instead, whose flags a filter can see
    if Calls.DATABASES in needs:
        _refuse("fchown", errno.EPERM)
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    rules.set_attr(seccomp.Attr.CTL_LOG, 1)
    rules.set_attr(seccomp.Attr.CTL_TSYNC, 1)
    _allow(rules, _ALWAYS)
    for need, names in _LISTS.items():
        if need in needs:
            _allow(rules, names)
    allowed = _LISTS[Calls.DELETE_FILES].split() if Calls.DELETE_FILES in needs else []
    for name in _DEADLY.split():
        if name not in allowed:
            _add(rules, seccomp.KILL_PROCESS, name)
    _limit_arguments(rules, needs)
    rules.load()


def _refuse(name: str, error: int) -> None:
    """Let a call fail that libraries are known to try, without a line in the kernel's log.

    This is a filter of its own because the other one logs what it refuses.
    """
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    rules.set_attr(seccomp.Attr.CTL_TSYNC, 1)
    _add(rules, seccomp.ERRNO(error), name)
    rules.load()


def _limit_arguments(rules: Any, needs: Calls) -> None:
    """Add the calls that are allowed with some arguments only."""
    argument, masked, equal = seccomp.Arg, seccomp.MASKED_EQ, seccomp.EQ
    for number in ("kill", "tgkill"):  # raise(3) and abort(3): a process may end itself
        _add(rules, seccomp.ALLOW, number, argument(0, equal, os.getpid()))
    _add(rules, seccomp.ALLOW, "prlimit64", argument(0, equal, 0), argument(2, equal, 0))  # ask, not set
    for name in ("mmap", "mprotect"):
        _add(rules, seccomp.ALLOW, name, argument(2, masked, _PROT_EXEC, 0))
    for command in _FCNTL_COMMANDS:
        _add(rules, seccomp.ALLOW, "fcntl", argument(1, equal, command))
    requests = list(_IOCTLS)
    if needs & (Calls.CONNECT | Calls.READ_NICS):
        requests += [_SIOCGIFNAME, _SIOCGIFINDEX]
    if Calls.READ_NICS in needs:
        requests += [_SIOCETHTOOL]
    for request in requests:
        _add(rules, seccomp.ALLOW, "ioctl", argument(1, equal, request))
    _limit_opening(rules, needs)
    if Calls.THREADS in needs:
        _add(rules, seccomp.ALLOW, "clone", argument(0, masked, _CLONE_THREAD, _CLONE_THREAD))
        _allow(rules, "clone3 sched_setaffinity sched_getparam sched_getscheduler")
    if Calls.READ_MAPS in needs:
        _add(rules, seccomp.ALLOW, "bpf", argument(0, equal, _BPF_MAP_LOOKUP_ELEM))
    else:
        _add(rules, seccomp.KILL_PROCESS, "bpf")
    for family in _families(needs):
        _add(rules, seccomp.ALLOW, "socket", argument(0, equal, int(family)))


def _limit_opening(rules: Any, needs: Calls) -> None:
    """Add the calls that open files and map them."""
    argument, masked = seccomp.Arg, seccomp.MASKED_EQ
    if Calls.CODE in needs:  # memory is never writable and executable
        _add(rules, seccomp.ALLOW, "mmap", argument(2, masked, _PROT_WRITE | _PROT_EXEC, _PROT_EXEC))
    if needs & (Calls.CHANGE_FILES | Calls.TRY_WRITING):
        _add(rules, seccomp.ALLOW, "openat", argument(2, masked, _NOT_CREATING, 0))
    elif Calls.READ_FILES in needs:
        _add(rules, seccomp.ALLOW, "openat", argument(2, masked, _NOT_READING, 0))


def _families(needs: Calls) -> set[int]:
    """Return the address families of the sockets that may be opened."""
    families: set[int] = set()
    if Calls.CONNECT in needs:
        families |= {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    if Calls.UNIX in needs:
        families |= {socket.AF_UNIX}
    if Calls.READ_NICS in needs:
        families |= {socket.AF_NETLINK, socket.AF_INET}
    return families


def _allow(rules: Any, names: str) -> None:
    """Allow calls, named in a text, with any arguments."""
    for name in names.split():
        _add(rules, seccomp.ALLOW, name)


def _add(rules: Any, action: int, name: str, *arguments: Any) -> None:
    """Add a rule, unless this machine or this libseccomp does not know the call."""
    if seccomp.resolve_syscall(seccomp.Arch(), name) >= 0:
        rules.add_rule(action, name, *arguments)
