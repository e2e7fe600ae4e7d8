"""Attempts of an attacker in control of a process, and each protection alone."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sandboxed import SUCCESS, attempt, shared_mappings, status_of, waiting

from sensor.capture.kernel_structs import BPF_MAP_TYPE_ARRAY, PerfEventAttr
from sensor.capture.maps import create_array, element, update
from sensor.capture.syscalls import perf_event_open, unshare, xdp_load
from sensor.errors import PrivilegeError
from sensor.process import accounts, sandbox, syscall_filter
from sensor.process.accounts import FIRST_ID, ProcessRole, ProcessUser
from sensor.process.landlock import Access, landlock_version

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root privileges to drop")

REQUIRED = os.environ.get("SENSOR_REQUIRE_KERNEL") == "1"
FORKED = (ProcessRole.WORKER, ProcessRole.EXPORTER, ProcessRole.EVENT_SENDER, ProcessRole.REINDEXER)
_CLONE_NEWUSER = 0x10000000
_PTRACE_ATTACH, _PR_SET_DUMPABLE = 16, 4
libc = ctypes.CDLL(None, use_errno=True)


def needs_landlock(version: int) -> pytest.MarkDecorator:
    """Skip a test on kernels with an older Landlock, or none."""
    return pytest.mark.skipif(
        landlock_version() < version and not REQUIRED, reason=f"no Landlock {version} in this kernel"
    )


@pytest.fixture
def no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the system call filter."""
    monkeypatch.setattr(sandbox, "restrict_calls", lambda _needs: None)


@pytest.fixture
def no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out Landlock."""
    monkeypatch.setattr(sandbox, "restrict_self", lambda _access: None)


def checked(result: int) -> None:
    """Raise the error of a call of the C library."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def read_memory(pid: int) -> None:
    """Read from the memory of another process, like a debugger (process_vm_readv(2))."""
    word = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(word), 8)
    checked(libc.process_vm_readv(pid, vector, 1, vector, 1, 0))


def run_a_program() -> None:
    """Become another program."""
    os.execv("/bin/true", ["true"])  # noqa: S606


def executable_memory() -> None:
    """Get memory for code."""
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def start_a_process() -> None:
    """Start a process."""
    if os.fork() == 0:
        os._exit(0)


@pytest.mark.parametrize(
    "role", (*FORKED, ProcessRole.INDEXER, ProcessRole.RETENTION, ProcessRole.HOLD_KEEPER)
)
@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        (run_a_program, "SIGSYS"),
        (lambda: os.setresuid(0, 0, 0), "SIGSYS"),
        (lambda: os.setgroups([0]), "SIGSYS"),
        (lambda: xdp_load("evil", bytes(8), 0), "SIGSYS"),
        (lambda: perf_event_open(PerfEventAttr(size=112), 0), "SIGSYS"),
        (lambda: unshare(_CLONE_NEWUSER), "SIGSYS"),
        (lambda: checked(libc.ptrace(_PTRACE_ATTACH, os.getppid(), 0, 0)), "SIGSYS"),
        (lambda: read_memory(os.getppid()), "SIGSYS"),
        (lambda: os.kill(os.getppid(), 0), "EPERM"),
        (lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY), ("EACCES", "EPERM")),
        (lambda: os.open("/etc/shadow", os.O_RDONLY), ("EACCES", "EPERM")),
        (lambda: os.open("/tmp/new", os.O_WRONLY | os.O_CREAT), ("EACCES", "EPERM")),  # noqa: S108
        (lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW), "EPERM"),
        (executable_memory, "EPERM"),
        (start_a_process, "EPERM"),
    ],
    ids="exec setuid setgroups bpf perf userns ptrace vm kill mem shadow create packets code fork".split(),  # noqa: SIM905
)
def test_no_process_does_that(
    role: ProcessRole, action: Callable[[], object], outcome: str | tuple[str, ...]
) -> None:
    """Calls of intruders kill the process, others fail."""
    if role == ProcessRole.EXPORTER and outcome == "SIGSYS" and action.__code__.co_names[0] == "xdp_load":
        outcome = "EPERM"  # it looks up elements of maps with the same call
    found = attempt(role, action)
    assert found in (outcome if isinstance(outcome, tuple) else (outcome,))


@pytest.mark.parametrize(
    "action",
    [
        lambda: os.open("/etc/passwd", os.O_RDONLY),
        lambda: os.open("/proc/self/status", os.O_RDONLY),
        lambda: list(Path("/").iterdir()),
        Path("/").stat,
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        lambda: socket.socket(socket.AF_UNIX),
        lambda: os.memfd_create("code"),
        Path("/none").unlink,
    ],
)
def test_a_worker_opens_nothing(action: Callable[[], object]) -> None:
    """It has no file system and no network."""
    assert attempt(ProcessRole.WORKER, action) == "EPERM"


def test_what_is_allowed_works() -> None:
    """The attempts above fail because of the sandbox: what a role needs succeeds."""
    assert attempt(ProcessRole.WORKER, lambda: bytearray(1 << 24)) == SUCCESS
    assert attempt(ProcessRole.EVENT_SENDER, lambda: socket.socket(socket.AF_INET)) == SUCCESS
    readable = Access(readable=(Path("/etc"),))
    assert attempt(ProcessRole.EVENT_SENDER, Path("/etc/passwd").read_bytes, access=readable) == SUCCESS


@pytest.mark.kernel(alone=False)
def test_maps_are_read_only() -> None:
    """The exporter can look up the elements of a map, not change them; a worker can do neither."""
    key, value = np.zeros(1, np.uint32), np.zeros(1, np.uint64)
    counters = create_array("counters", BPF_MAP_TYPE_ARRAY, value.dtype, 1)
    with os.fdopen(counters):
        for role, looked_up, updated in (
            (ProcessRole.EXPORTER, SUCCESS, "EPERM"),
            (ProcessRole.WORKER, "SIGSYS", "SIGSYS"),
        ):
            kept = {"descriptors": [counters]}
            assert attempt(role, lambda: element(counters, value.dtype), **kept) == looked_up
            assert attempt(role, lambda: update(counters, key, value), **kept) == updated


@pytest.mark.parametrize("role", FORKED)
def test_rights_of_the_process(role: ProcessRole) -> None:
    """Each role has its own user, no capabilities, and no way to new ones."""
    with waiting(role) as pid:
        status = status_of(pid)
        descriptors = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    identity = accounts.identity_of(role)
    assert set(status["Uid"].split()) == {str(identity.uid)} != {"0"}
    assert set(status["Gid"].split()) == {str(identity.gid)} != {"0"}
    assert status["Groups"] == ""
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    streams = {"/dev/null", str(Path("/proc/self/fd/2").readlink())}
    assert len(descriptors - streams) == 1  # its pipe to this test


def test_each_role_has_another_user() -> None:
    """No two roles share a user or group."""
    identities = [accounts.identity_of(role) for role in FORKED]
    assert len({one.uid for one in identities}) == len({one.gid for one in identities}) == len(FORKED)


def test_foreign_memory_is_unmapped() -> None:
    """A fork keeps of the shared memory of its parent only what it names."""
    ours, foreign = mmap.mmap(-1, 1 << 20), mmap.mmap(-1, 2 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(ours))
    with waiting(None) as pid:
        before = len(shared_mappings(pid))
    with waiting(ProcessRole.WORKER, shared=[address]) as pid:
        assert len(shared_mappings(pid)) == 1 < before
    foreign_address = ctypes.addressof(ctypes.c_char.from_buffer(foreign))
    read = ctypes.string_at
    assert attempt(ProcessRole.WORKER, lambda: read(address, 1), shared=[address]) == SUCCESS
    assert attempt(ProcessRole.WORKER, lambda: read(foreign_address, 1), shared=[address]) == "SIGSEGV"


@needs_landlock(1)
def test_the_indexer_changes_one_directory(tmp_path: Path) -> None:
    """It keeps the supervisor's user. Root without capabilities owns most files, but cannot reach them."""
    device, other = tmp_path / "3", tmp_path / "other"
    device.mkdir()
    other.write_text("text")
    (device / "link").symlink_to(other)

    def outcome(action: Callable[[], object]) -> str:
        access = Access(changeable=(device,), readable=(Path("/etc"),))
        return attempt(ProcessRole.INDEXER, action, identity=ProcessUser("", 0, 0), access=access)

    assert outcome((device / "new").touch) == SUCCESS
    assert outcome(lambda: (device / "new").rename(device / "newer")) == SUCCESS
    assert outcome((device / "newer").unlink) == SUCCESS
    assert outcome(other.read_text) == outcome((device / "link").read_text) == "EACCES"
    assert outcome(other.unlink) == outcome((tmp_path / "new").touch) == "EACCES"
    assert outcome(lambda: os.open("/etc/passwd", os.O_WRONLY)) == "EACCES"
    assert outcome(lambda: os.chmod("/etc/passwd", 0o4777)) == "EPERM"  # noqa: PTH101, S103
    assert outcome(lambda: os.fchmod(os.open("/etc/passwd", os.O_RDONLY), 0o666)) == "EPERM"
    assert outcome(lambda: os.chown(device, 1, 1)) == "EPERM"
    assert outcome(lambda: os.fchown(os.open("/etc/passwd", os.O_RDONLY), 0, 1)) == "EPERM"
    assert outcome(lambda: os.link(other, device / "hard")) == "EPERM"
    assert outcome(lambda: (device / "soft").symlink_to("/etc/shadow")) == "EPERM"
    assert outcome(lambda: os.kill(os.getppid(), signal.SIGTERM)) == "EPERM"
    assert outcome(lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDWR)) == "EACCES"
    assert outcome(lambda: socket.socket(socket.AF_UNIX)) == "EPERM"
    assert outcome(lambda: threading.Thread(target=print).start()) != SUCCESS


def test_a_process_with_threads_stays_out() -> None:
    """Capabilities and Landlock are of each thread: another one would keep its rights."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with pytest.raises(PrivilegeError, match="several threads"):
            sandbox.enter(ProcessRole.WORKER)
    finally:
        end.set()
        thread.join()


@pytest.mark.usefixtures("no_filter", "no_landlock")
class TestUserAlone:
    """Without Landlock and the filter, what separates the processes is their users."""

    def test_others_cannot_be_signalled_or_read(self) -> None:
        """Neither the supervisor nor processes of other roles."""
        with waiting(ProcessRole.EXPORTER) as other:
            for pid in (os.getppid(), os.getpid(), other):
                assert attempt(ProcessRole.WORKER, lambda pid=pid: os.kill(pid, 0)) == "EPERM"
                assert attempt(ProcessRole.WORKER, lambda pid=pid: read_memory(pid)) == "EPERM"
                assert (
                    attempt(ProcessRole.WORKER, lambda pid=pid: os.open(f"/proc/{pid}/mem", os.O_RDONLY))
                    == "EACCES"
                )

    def test_one_worker_cannot_read_another(self) -> None:
        """They have one user, but the kernel lets only root inspect them."""
        with waiting(ProcessRole.WORKER) as other:
            assert attempt(ProcessRole.WORKER, lambda: read_memory(other)) == "EPERM"
            assert attempt(ProcessRole.WORKER, lambda: checked(libc.ptrace(16, other, 0, 0))) == "EPERM"

    def test_a_user_that_stays_cannot_read_it(self) -> None:
        """A process that may not switch users is closed to those of its own user."""

        def start_as_user() -> None:
            os.setresuid(12345, 12345, 12345)
            libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)

        with waiting(None, start_as_user) as pid:
            assert Path(f"/proc/{pid}/mem").stat().st_uid == 12345
        with waiting(ProcessRole.WORKER, start_as_user) as pid:
            assert status_of(pid)["Uid"].split() == ["12345"] * 4
            assert Path(f"/proc/{pid}/mem").stat().st_uid == 0

    def test_root_does_not_come_back(self) -> None:
        """The saved user id is gone as well."""
        assert attempt(ProcessRole.WORKER, lambda: os.setresuid(-1, 0, -1)) == "EPERM"
        assert attempt(ProcessRole.WORKER, lambda: os.setgroups([0])) == "EPERM"

    def test_bpf_is_refused(self) -> None:
        """A program cannot be loaded without capabilities."""
        assert attempt(ProcessRole.WORKER, lambda: xdp_load("evil", bytes(8), 0)) == "EPERM"

    def test_files_of_root_are_closed(self) -> None:
        """Files that others may read are readable; Landlock and the filter close those."""
        assert attempt(ProcessRole.WORKER, lambda: os.open("/etc/shadow", os.O_RDONLY)) == "EACCES"
        assert attempt(ProcessRole.WORKER, lambda: os.open("/etc/passwd", os.O_RDONLY)) == SUCCESS


@pytest.mark.usefixtures("no_filter")
class TestLandlockAlone:
    """Without the filter, Landlock closes what the user could still do."""

    @needs_landlock(1)
    def test_files(self, tmp_path: Path) -> None:
        """Only the named directories can be read, listed or changed."""
        tmp_path.chmod(0o755)
        file = tmp_path / "file"
        file.write_text("text")
        as_root = {"identity": ProcessUser("root", 0, 0), "capabilities": ["CAP_DAC_OVERRIDE"]}

        def outcome(action: Callable[[], object], **access: tuple[Path, ...]) -> str:
            return attempt(ProcessRole.WORKER, action, access=Access(**access), **as_root)

        assert outcome(file.read_text) == "EACCES"
        assert outcome(file.read_text, readable=(tmp_path,)) == SUCCESS
        assert outcome(lambda: list(tmp_path.iterdir())) == "EACCES"
        assert outcome(lambda: list(tmp_path.iterdir()), listable=(tmp_path,)) == SUCCESS
        assert outcome(file.read_text, listable=(tmp_path,)) == "EACCES"
        assert outcome(lambda: file.write_text("other"), readable=(tmp_path,)) == "EACCES"
        assert outcome(lambda: file.write_text("other"), changeable=(tmp_path,)) == SUCCESS
        assert outcome(run_a_program, readable=(Path("/bin"),)) == "EACCES"
        assert outcome(lambda: os.write(os.open(file, os.O_RDWR), b"x"), writable=(tmp_path,)) == SUCCESS
        assert outcome((tmp_path / "new").touch, writable=(tmp_path,)) == SUCCESS
        assert outcome(file.unlink, writable=(tmp_path,)) == "EACCES"
        assert outcome(lambda: file.rename(tmp_path / "newer"), writable=(tmp_path,)) == "EACCES"

    @needs_landlock(3)
    def test_a_file_is_not_cut_short(self, tmp_path: Path) -> None:
        """A file that may be written keeps what it has at its end."""
        tmp_path.chmod(0o755)
        file = tmp_path / "file"
        file.write_text("text")
        as_root = {"identity": ProcessUser("root", 0, 0), "capabilities": ["CAP_DAC_OVERRIDE"]}

        def cut() -> None:
            os.ftruncate(os.open(file, os.O_RDWR), 0)

        assert attempt(ProcessRole.WORKER, cut, access=Access(writable=(tmp_path,)), **as_root) == "EACCES"
        assert attempt(ProcessRole.WORKER, cut, access=Access(changeable=(tmp_path,)), **as_root) == SUCCESS

    @needs_landlock(4)
    def test_ports(self) -> None:
        """Only the named ports can be connected to."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
            connect = lambda: socket.create_connection(address)  # noqa: E731
            assert attempt(ProcessRole.EVENT_SENDER, connect, access=Access(ports=(address[1],))) == SUCCESS
            assert attempt(ProcessRole.EVENT_SENDER, connect) == "EACCES"

    @needs_landlock(6)
    def test_processes_of_the_same_user(self) -> None:
        """A worker cannot even signal another worker."""
        with waiting(ProcessRole.WORKER) as other:
            assert attempt(ProcessRole.WORKER, lambda: os.kill(other, signal.SIGKILL)) == "EPERM"
            assert status_of(other)["State"].startswith("S")


@pytest.mark.usefixtures("no_landlock")
class TestFilterAlone:
    """Without Landlock, the filter closes what the user could still do."""

    def test_files_and_signals(self) -> None:
        """A worker opens nothing and signals nobody; the exporter only reads."""
        with waiting(ProcessRole.WORKER) as other:
            assert attempt(ProcessRole.WORKER, lambda: os.kill(other, signal.SIGKILL)) == "EPERM"
        assert attempt(ProcessRole.WORKER, lambda: os.open("/etc/passwd", os.O_RDONLY)) == "EPERM"
        assert attempt(ProcessRole.EXPORTER, lambda: os.open("/etc/passwd", os.O_RDONLY)) == SUCCESS
        assert attempt(ProcessRole.EXPORTER, lambda: os.open("/tmp/new", os.O_WRONLY | os.O_CREAT)) == "EPERM"  # noqa: S108


def test_accounts_are_used_if_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an account, the id is one that nobody has; an id in use is refused."""
    accounts.identity_of.cache_clear()
    assert accounts.identity_of(ProcessRole.WORKER) == ("sensor-worker", FIRST_ID, FIRST_ID)
    account = accounts.pwd.getpwnam("nobody")
    accounts.identity_of.cache_clear()
    monkeypatch.setattr(accounts.pwd, "getpwuid", lambda _uid: account)
    with pytest.raises(PrivilegeError, match="belongs to nobody; create an account"):
        accounts.identity_of(ProcessRole.WORKER)
    monkeypatch.setattr(accounts.pwd, "getpwnam", lambda _name: account)
    assert accounts.identity_of(ProcessRole.WORKER) == ("sensor-worker", account.pw_uid, account.pw_gid)
    accounts.identity_of.cache_clear()


def test_a_missing_library_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the package to install."""
    monkeypatch.setattr(syscall_filter, "seccomp", None)
    with pytest.raises(PrivilegeError, match="apt-get install python3-seccomp"):
        sandbox.prepare()
