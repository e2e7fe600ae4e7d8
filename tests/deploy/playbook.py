"""Runs the playbook as an operator does: over ssh, with an inventory file, on one host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from container import ADDRESS, Container

ROOT = Path(__file__).parents[2]
HOST = "probe"
Variables = dict[str, Any]


@dataclass(frozen=True)
class PlayResult:
    """The result of one run of the playbook."""

    output: str
    returncode: int

    @property
    def changed(self) -> int:
        """Number of tasks that changed something, from the recap."""
        [recap] = re.findall(rf"^{HOST}\s.*changed=(\d+)", self.output, re.MULTILINE)
        return int(recap)


@dataclass(frozen=True)
class Controller:
    """A directory with an ssh key and an inventory, and the variables that all runs share."""

    directory: Path
    variables: Variables = field(default_factory=dict)

    def play(
        self, *options: str, check: bool = True, monitored: bool = False, **variables: Any
    ) -> PlayResult:
        """Run the playbook with the shared and further variables; print how long it took.

        Args:
            options: command-line options of ansible-playbook.
            check: fail the test if the run fails.
            monitored: the host is in the group monitoring as well.
            variables: further variables of the host.
        """
        host = {**self._connection(), **self.variables, **variables}
        inventory = {
            "sensors": {"hosts": {HOST: host}},
            "monitoring": {"hosts": {HOST: None} if monitored else {}},
        }
        path = self.directory / "inventory.yml"
        path.write_text(yaml.safe_dump(inventory))
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        command = [program, f"--inventory={path}", "site.yml", *options]
        started_s = time.monotonic()
        done = subprocess.run(
            command,
            cwd=ROOT / "ansible",
            env=self._environment(),
            check=False,
            capture_output=True,
            text=True,
        )
        took_s = time.monotonic() - started_s
        print(f"{took_s:6.1f} s  site.yml {' '.join([*options, *variables])}", flush=True)  # noqa: T201
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return PlayResult(done.stdout + done.stderr, done.returncode)

    def _connection(self) -> Variables:
        options = f"-o UserKnownHostsFile={self.directory}/known_hosts -o StrictHostKeyChecking=accept-new"
        return {
            "ansible_host": ADDRESS,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.directory / "key"),
            "ansible_ssh_common_args": options,
        }

    def _environment(self) -> dict[str, str]:
        """Return variables that keep Ansible's files out of the user's home directory."""
        return {
            **os.environ,
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._sockets),
            "ANSIBLE_NOCOLOR": "1",
        }

    @property
    def _sockets(self) -> Path:
        return self.directory / "cp"

    def hang_up(self) -> None:
        """Close the ssh connections that Ansible keeps for its next run."""
        for socket in self._sockets.glob("*"):
            command = ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", HOST]
            subprocess.run(command, capture_output=True, check=False)


@contextmanager
def controller(container: Container, directory: Path, variables: Mapping[str, Any]) -> Iterator[Controller]:
    """Authorize a new key on the host; yield a controller that uses it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")], check=True)
    container.run("mkdir", "-p", "-m", "700", "/root/.ssh")
    container.run("tee", "/root/.ssh/authorized_keys", text=(directory / "key.pub").read_text())
    result = Controller(directory, dict(variables))
    try:
        yield result
    finally:
        result.hang_up()


def build_bundle(directory: Path) -> Path:
    """Build the bundle with the command in docs/operate.md."""
    subprocess.run(["make", "bundle", f"DIST={directory}"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    [bundle] = directory.glob("sensor-*-bundle.tar.gz")
    return bundle


def build_next_bundle(bundle: Path, version: str, directory: Path) -> Path:
    """Build a bundle of another version from the same code and the same packages."""
    sources = directory / "sources"
    ignored = shutil.ignore_patterns(".*", "ansible", "dist", "docs", "tests", "__pycache__")
    shutil.copytree(ROOT, sources, ignore=ignored)
    project = sources / "pyproject.toml"
    project.write_text(
        re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text(), count=1)
    )
    subprocess.run(["tar", "--extract", f"--file={bundle}", f"--directory={directory}"], check=True)
    for wheel in (directory / "wheels").glob("xdp_sensor-*.whl"):
        wheel.unlink()
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        f"--wheel-dir={directory / 'wheels'}",
    ]
    subprocess.run([*build, str(sources)], check=True)
    archive = directory / f"sensor-{version}-{os.uname().machine}-bundle.tar.gz"
    subprocess.run(
        ["tar", "--create", "--gzip", f"--file={archive}", f"--directory={directory}", "wheels"], check=True
    )
    return archive
