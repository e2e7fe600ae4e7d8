"""Runs the playbook as an operator does: over ssh, with an inventory in a directory, against one host."""

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
class Played:
    """What a run of the playbook came to."""

    output: str
    returncode: int

    @property
    def changed(self) -> int:
        """Tasks that changed something, by the recap."""
        [recap] = re.findall(rf"^{HOST}\s.*changed=(\d+)", self.output, re.MULTILINE)
        return int(recap)


@dataclass(frozen=True)
class Controller:
    """A directory with a key and an inventory, and the variables that all runs share."""

    directory: Path
    variables: Variables = field(default_factory=dict)

    def play(self, *options: str, check: bool = True, watched: bool = False, **variables: Any) -> Played:
        """Run the playbook with variables on top of the shared ones; print how long it took.

        Args:
            options: Of ansible-playbook.
            check: A run that fails fails the test.
            watched: The host is also the one that watches the sensors.
            variables: Of the host.
        """
        host = {**self._connection(), **self.variables, **variables}
        inventory = {
            "sensors": {"hosts": {HOST: host}},
            "monitoring": {"hosts": {HOST: None} if watched else {}},
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
        return Played(done.stdout + done.stderr, done.returncode)

    def _connection(self) -> Variables:
        options = f"-o UserKnownHostsFile={self.directory}/known_hosts -o StrictHostKeyChecking=accept-new"
        return {
            "ansible_host": ADDRESS,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.directory / "key"),
            "ansible_ssh_common_args": options,
        }

    def _environment(self) -> dict[str, str]:
        """Nothing of it is kept in the home directory of whoever runs the tests."""
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
        """End the connections that Ansible keeps for its next run."""
        for socket in self._sockets.glob("*"):
            command = ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", HOST]
            subprocess.run(command, capture_output=True, check=False)


@contextmanager
def controller(container: Container, directory: Path, variables: Mapping[str, Any]) -> Iterator[Controller]:
    """Let a new key into the host, and give what runs playbooks with it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")], check=True)
    container.run("mkdir", "-p", "-m", "700", "/root/.ssh")
    container.run("tee", "/root/.ssh/authorized_keys", text=(directory / "key.pub").read_text())
    playing = Controller(directory, dict(variables))
    try:
        yield playing
    finally:
        playing.hang_up()


def build_bundle(directory: Path) -> Path:
    """Make the bundle by the command of the documents."""
    subprocess.run(["make", "bundle", f"DIST={directory}"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    [bundle] = directory.glob("sensor-*-bundle.tar.gz")
    return bundle


def build_next_bundle(bundle: Path, version: str, directory: Path) -> Path:
    """Make the bundle of another version: the same code, and the same packages beside it."""
    sources = directory / "sources"
    kept_out = shutil.ignore_patterns(".*", "ansible", "dist", "docs", "tests", "__pycache__")
    shutil.copytree(ROOT, sources, ignore=kept_out)
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
    made = directory / f"sensor-{version}-{os.uname().machine}-bundle.tar.gz"
    subprocess.run(
        ["tar", "--create", "--gzip", f"--file={made}", f"--directory={directory}", "wheels"], check=True
    )
    return made
