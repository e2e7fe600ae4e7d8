"""The private sensor of ``sensor selftest``: on a veth pair in its own network, with temporary evidence."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sensor.bench.private_network import private_network, veth_pair
from sensor.capture.cpus import online_cpus
from sensor.config.definitions import toml
from sensor.config.settings import Settings
from sensor.process.child import finish
from sensor.process.tied import tied
from sensor.selftest.journey import Journey
from sensor.selftest.stage import SelftestStage, StageFailure, StageResult, results

PORT, SENDER = "selftest0", "selftest1"
_READY = "capturing on"
_END_S = 10.0
_LOG = "log"
_KEPT = (
    "rules", "lenient", "devid", "local_time", "keep", "profile", "networks_include", "networks_exclude",
    "suppress_above", "mode", "ring_mib", "history_mib", "flows", "workers", "api_user",
)  # fmt: skip
"""Settings that decide what becomes of a packet. The others are about what is outside: the private sensor has
no receivers, and its API neither tokens nor TLS."""


def follow_privately(settings: Settings, command: list[str], patience_s: float) -> list[StageResult]:
    """Follow a packet through a sensor of its own; ``command`` starts ``sensor``.

    Raises:
        PrivilegeError: CAP_SYS_ADMIN is missing.
        RulesError: The rules of the settings cannot be loaded.
    """
    try:
        with private_sensor(settings, command) as own:
            found = Journey(own, PORT, SENDER, None, patience_s).run()
            return [_with_reason(one, own.evidence.with_name(_LOG)) for one in found]
    except StageFailure as failure:
        return results({}, failure)


@contextmanager
def private_sensor(settings: Settings, command: list[str]) -> Iterator[Settings]:
    """Run a sensor that captures on `PORT`, which is connected to `SENDER`; yield its settings.

    Its evidence is on the disk of the real one. All of it ends with this process.

    Raises:
        PrivilegeError: CAP_SYS_ADMIN is missing.
        StageFailure: The sensor does not start.
    """
    with private_network(), _temporary(settings.evidence) as directory:
        veth_pair(PORT, SENDER, queues=len(online_cpus()))
        own = settings.model_copy(
            update={
                "evidence": directory / "evidence",
                "metrics": "127.0.0.1:9321",
                "listen": "127.0.0.1:8321",
            }
            | {"interface": (PORT,), "api": True, "token_required": False, "tls_cert": None, "events": ()}
        )
        config = directory / "sensor.toml"
        config.write_text("".join(_lines(own)))
        run = tied(*command, "run", "--config", str(config))
        variables = {name: value for name, value in os.environ.items() if not name.startswith("SENSOR_")}
        with (
            (directory / _LOG).open("w+") as log,
            subprocess.Popen(run, stderr=log, env=variables) as process,
        ):
            try:
                _wait_until_ready(process, directory / _LOG)
                yield own
            finally:
                process.terminate()
                finish(process, _END_S)


def _lines(settings: Settings) -> Iterator[str]:
    for name in (*_KEPT, "evidence", "metrics", "listen", "interface"):
        value = getattr(settings, name)
        if value is not None:
            yield f"{name} = {toml(value)}\n"


@contextmanager
def _temporary(evidence: Path) -> Iterator[Path]:
    """Yield a directory beside the evidence; if there is none yet, on what will be its disk."""
    above = next(path for path in (evidence, *evidence.absolute().parents) if path.is_dir())
    try:
        temporary = tempfile.TemporaryDirectory(prefix=".selftest-", dir=above)
    except OSError as error:
        raise StageFailure(
            SelftestStage.CAPTURING, f"{above}: cannot be written: {error.strerror}"
        ) from error
    with temporary as name:
        Path(name).chmod(0o755)  # the API is another user
        yield Path(name)


def _with_reason(one: StageResult, log: Path) -> StageResult:
    """Return the result of a stage; if it failed, with the last complaint in the log, which is not kept."""
    lines = log.read_text().splitlines()
    complaints = [line for line in lines if " ERROR " in line or line.startswith("sensor: ")]
    if one.outcome != "failed" or not complaints:
        return one
    return one._replace(detail=f"{one.detail}: {complaints[-1]}")


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    while _READY not in log.read_text():
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        lines = log.read_text().splitlines() or ["it logged nothing"]
        raise StageFailure(SelftestStage.CAPTURING, f"the sensor does not start: {lines[-1]}")
