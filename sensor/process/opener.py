"""Opens files for a process that may not: a small process that keeps the supervisor's user.

Event sender and API have users of their own, but event files, certificates, sockets and the audit log belong
to whom they always did, such as root or an administrator. Each receiver that needs paths has one opener, and
so has the audit log. It does what its grants name and nothing else, so an attacker in control of the other
process gains no other file.

A request is a datagram with the operation and the path; the answer is an errno, 0 for success, and the
descriptor.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from sensor.errors import SensorError
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole, ProcessUser
from sensor.process.granted_paths import Files, Grant
from sensor.process.landlock import Access
from sensor.process.prctl import set_process_name
from sensor.text import shown

REQUEST_BYTES = 1 << 13
_ERRNO = struct.Struct("=i")


class RemoteFiles(Files):
    """Opens paths through an opener, as `Files` does directly."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        """Start the opener; call this while the process has one thread, and before its sandbox."""
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            if os.fork() == 0:
                self._connection.close()
                _run(theirs, {(grant.operation, grant.path): grant for grant in grants})

    @property
    def descriptor(self) -> int:
        """Descriptor of the connection to the opener."""
        return self._connection.fileno()

    def append(self, path: Path) -> int:
        """Return the descriptor of a regular file that is written at its end, created if there is none."""
        return self._open("append", path)

    def rotate(self, path: Path, keep: int) -> None:  # noqa: ARG002 - the grant says how many files are kept
        """Rename ``eve.json`` to ``eve.json.1`` and so on; the oldest file is overwritten."""
        self._ask("rotate", path)

    def read(self, path: Path) -> int:
        """Return the descriptor of a file that is read."""
        return self._open("read", path)

    def connect(self, path: Path) -> socket.socket:
        """Return a socket that is connected to a unix socket, of the listener's type."""
        return socket.socket(fileno=self._open("connect", path))

    def _open(self, operation: str, path: Path) -> int:
        [descriptor] = self._ask(operation, path)
        return descriptor

    def _ask(self, operation: str, path: Path) -> list[int]:
        self._connection.send(f"{operation} {path}".encode(errors="surrogateescape"))
        answer, descriptors, _, _ = socket.recv_fds(self._connection, _ERRNO.size, 1)
        if not answer:
            raise BrokenPipeError("the process that opens files is gone")
        [error] = _ERRNO.unpack(answer)
        if error:
            raise OSError(error, os.strerror(error), str(path))
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return descriptors


def _run(connection: socket.socket, grants: dict[tuple[str, Path], Grant]) -> None:
    """Serve requests until the sender ends; never return."""
    code = 1
    try:
        set_process_name("sensor-files")
        directories = tuple({grant.path.parent for grant in grants.values() if grant.operation != "connect"})
        changes = tuple({grant.path.parent for grant in grants.values() if grant.operation == "append"})
        sandbox.enter(
            ProcessRole.EVENT_FILES,
            descriptors=[connection.fileno()],
            identity=ProcessUser("", os.geteuid(), os.getegid()),
            access=Access(readable=directories, changeable=changes),
            capabilities=["CAP_DAC_OVERRIDE"],  # if this is root: the directories may be anybody's
        )
        _serve(connection, grants)
        code = 0
    except (OSError, SensorError) as error:
        os.write(2, f"sensor-files: {shown(str(error))}\n".encode())
    finally:
        os._exit(code)


def _serve(connection: socket.socket, grants: dict[tuple[str, Path], Grant]) -> None:
    while request := connection.recv(REQUEST_BYTES):
        operation, _, path = request.decode(errors="surrogateescape").partition(" ")
        grant = grants.get((operation, Path(path)))
        try:
            descriptors = _do(grant)
            error = 0
        except OSError as failure:
            descriptors, error = [], failure.errno or 0
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        connection.sendmsg([_ERRNO.pack(error)], ancillary if descriptors else [])
        for descriptor in descriptors:
            os.close(descriptor)


def _do(grant: Grant | None) -> list[int]:
    """Do what the grant permits; return the descriptor, if there is one."""
    files = Files()
    if grant is None:
        raise PermissionError(1, os.strerror(1))
    if grant.operation == "append":
        return [files.append(grant.path)]
    if grant.operation == "read":
        return [files.read(grant.path)]
    if grant.operation == "connect":
        return [files.connect(grant.path).detach()]
    if grant.path.lstat().st_size >= grant.rotate_bytes:
        files.rotate(grant.path, grant.keep)
    return []
