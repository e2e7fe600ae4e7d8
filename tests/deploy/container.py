"""A Debian host for tests: a tree made by debootstrap, booted by systemd-nspawn in a network of its own.

The host has the interface ``host0`` with the address `ADDRESS`; the caller's namespace, which has to be a
private one, is at the other end. What a test writes to the tree is gone afterwards.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pyroute2 import IPRoute

from sensor.bench.private_network import private_network, veth_pair

ADDRESS = "10.77.0.2"
"""Of the container; `OUTSIDE` is the other end."""
OUTSIDE = "10.77.0.1"
_UPLINK = "uplink"
_BOOT_S = 60
_KEEPER = Path(__file__).with_name("keeper.py")

# Read before the tests move it: the tree takes minutes to make.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sensor-tests"
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "ethtool",
    "iproute2",
    "logrotate",
    "openssh-server",
    "procps",
    "prometheus",
    "python3",
    "python3-apt",
    "python3-bpfcc",
    "python3-venv",
    "sudo",
    "systemd",
    "systemd-sysv",
)


def debian_tree(suite: str = "bookworm") -> Path:
    """Return a Debian tree, to be read only; it is made where it is not in the cache yet."""
    key = hashlib.sha256(" ".join((_MIRROR, suite, *_PACKAGES)).encode()).hexdigest()[:12]
    tree = _CACHE / f"{suite}-{key}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if tree.exists():
            return tree
        partial = _CACHE / "partial"
        subprocess.run(["rm", "-rf", str(partial)], check=True)
        packages = f"--include={','.join(_PACKAGES)}"
        command = ["debootstrap", "--variant=minbase", packages, suite, str(partial), _MIRROR]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (partial / "etc" / "machine-id").write_text("")  # each boot is another host
        (partial / "etc" / "hostname").write_text("sensor-test\n")
        subprocess.run(["chroot", str(partial), "apt-get", "clean"], check=True)
        return partial.rename(tree)


class Container:
    """A host that has booted."""

    def __init__(self, keeper: subprocess.Popen[bytes]) -> None:
        self._keeper = keeper
        self.wait_until_booted()

    @property
    def leader(self) -> int:
        """Process id of its init, as seen from outside; another one after it was rebooted."""
        [keeper] = _children(self._keeper.pid)
        [nspawn] = _children(keeper)
        [init] = _children(nspawn)
        return init

    @property
    def root(self) -> Path:
        """Its files, as seen from outside. Absolute symbolic links in them lead out of it."""
        return Path(f"/proc/{self.leader}/root")

    def run(self, *command: str, check: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in it as root, ``text`` on its standard input; an error shows what it printed."""
        done = subprocess.run(
            self.entering(*command), check=False, capture_output=True, text=True, input=text, env={}
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done

    def entering(self, *command: str) -> list[str]:
        """Return the command line, for this host, that runs a command in the container."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        enter = ["/usr/bin/nsenter", f"--target={self.leader}", "--all", "--wdns=/"]
        return [*enter, "/usr/bin/env", "-i", path, "HOME=/root", "LANG=C.UTF-8", *command]

    def wait_until_booted(self) -> None:
        """Return when every service has been started or has failed."""
        deadline = time.monotonic() + _BOOT_S
        while time.monotonic() < deadline:
            assert self._keeper.poll() is None, "systemd-nspawn has ended"
            with suppress(OSError, ValueError):  # it has no init yet
                state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.05)
        raise AssertionError("the container does not boot")

    def reboot(self) -> None:
        """Shut it down in order, and return when it has booted again."""
        before = self.leader
        self.run("systemctl", "reboot", check=False)
        deadline = time.monotonic() + _BOOT_S
        while Path(f"/proc/{before}").exists():
            assert time.monotonic() < deadline, "the container does not shut down"
            time.sleep(0.05)
        self.wait_until_booted()


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@contextmanager
def booted(tree: Path, mirrors: Sequence[tuple[str, str]] = (), *, log: Path) -> Iterator[Container]:
    """Boot a tree; its console goes to ``log``.

    Args:
        tree: From `debian_tree`.
        mirrors: Interfaces of the container, each with the name of its other end: silent veth pairs.
        log: File to write.
    """
    with _network(mirrors) as network_fd, log.open("w") as console:
        name = f"sensor-test-{os.getpid()}"
        namespaces = ("--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
        command = ["unshare", *namespaces, sys.executable, str(_KEEPER)]
        with subprocess.Popen(
            [*command, str(tree), name, str(network_fd)],
            stdin=subprocess.PIPE,
            stdout=console,
            stderr=console,
            pass_fds=(network_fd,),
            start_new_session=True,  # Ctrl-C is for the test: the keeper then has work to do
        ) as keeper:
            assert keeper.stdin
            try:
                yield Container(keeper)
            finally:
                keeper.stdin.close()


@contextmanager
def _network(mirrors: Sequence[tuple[str, str]]) -> Iterator[int]:
    """A network namespace with one end of each pair in it; a file descriptor that keeps it."""
    outside_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text(
        "1"
    )  # for ends that come: they are silent
    try:
        with private_network():
            network_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            for inside, outside in (("host0", _UPLINK), *mirrors):
                veth_pair(inside, outside)
                with IPRoute() as netlink:
                    index = netlink.link_lookup(ifname=outside)[0]
                    netlink.link("set", index=index, net_ns_fd=outside_fd)
            _address("host0", ADDRESS)
    finally:
        os.close(outside_fd)
    try:
        _address(_UPLINK, OUTSIDE)
        with IPRoute() as netlink:
            for _, outside in mirrors:
                netlink.link("set", index=netlink.link_lookup(ifname=outside)[0], state="up")
        yield network_fd
    finally:
        os.close(network_fd)


def _address(name: str, address: str) -> None:
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname=name)[0]
        netlink.addr("add", index=index, address=address, prefixlen=24)
        netlink.link("set", index=index, arp=True, state="up")
