"""A Debian host for tests: a tree made by debootstrap, booted by systemd-nspawn in its own network.

The host has the interface ``host0`` with the address `ADDRESS`. Its other end is in the caller's network
namespace, which must be a private one. Changes to the tree are discarded at the end.
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
"""Address of the container; `OUTSIDE` is that of the other end."""
OUTSIDE = "10.77.0.1"
_UPLINK = "uplink"
_BOOT_S = 60
_KEEPER = Path(__file__).with_name("keeper.py")

# Evaluated at import, before tests change the variable: building the tree takes minutes.
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
    "python3-seccomp",
    "python3-venv",
    "sudo",
    "systemd",
    "systemd-sysv",
)


def debian_tree(suite: str = "bookworm") -> Path:
    """Return a Debian tree, which must not be changed; build it if it is not in the cache yet."""
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
        (partial / "etc" / "machine-id").write_text("")  # systemd creates a new id at each boot
        (partial / "etc" / "hostname").write_text("sensor-test\n")
        subprocess.run(["chroot", str(partial), "apt-get", "clean"], check=True)
        return partial.rename(tree)


class Container:
    """A booted host."""

    def __init__(self, keeper: subprocess.Popen[bytes]) -> None:
        self._keeper = keeper
        self.wait_until_booted()

    @property
    def leader(self) -> int:
        """Process id of its init outside the container; changes with a reboot."""
        [keeper] = _children(self._keeper.pid)
        [nspawn] = _children(keeper)
        [init] = _children(nspawn)
        return init

    @property
    def root(self) -> Path:
        """Its root directory outside the container. Absolute symbolic links in it lead out of it."""
        return Path(f"/proc/{self.leader}/root")

    def run(self, *command: str, check: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in it as root with ``text`` on standard input; a failure shows its output."""
        done = subprocess.run(
            self.entering(*command), check=False, capture_output=True, text=True, input=text, env={}
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done

    def entering(self, *command: str) -> list[str]:
        """Return the command line that runs a command in the container from outside."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        enter = ["/usr/bin/nsenter", f"--target={self.leader}", "--all", "--wdns=/"]
        return [*enter, "/usr/bin/env", "-i", path, "HOME=/root", "LANG=C.UTF-8", *command]

    def wait_until_booted(self) -> None:
        """Wait until every service has been started or has failed."""
        deadline = time.monotonic() + _BOOT_S
        while time.monotonic() < deadline:
            assert self._keeper.poll() is None, "systemd-nspawn has ended"
            with suppress(OSError, ValueError):  # no init yet
                state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.05)
        raise AssertionError("the container does not boot")

    def reboot(self) -> None:
        """Reboot it cleanly, and wait until it has booted."""
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
        tree: a tree from `debian_tree`.
        mirrors: interfaces of the container, each with the name of its other end; silent veth pairs.
        log: file for the output of the console.
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
            start_new_session=True,  # so that Ctrl-C does not kill the keeper before it has cleaned up
        ) as keeper:
            assert keeper.stdin
            try:
                yield Container(keeper)
            finally:
                keeper.stdin.close()


@contextmanager
def _network(mirrors: Sequence[tuple[str, str]]) -> Iterator[int]:
    """Create a network namespace with one end of each pair; yield its file descriptor."""
    outside_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    # New ends send nothing on their own.
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
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
