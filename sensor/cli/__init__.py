"""The commands of ``sensor``, a module each; errors become one line and an exit code."""

from __future__ import annotations

import signal
import sys

import click

from sensor import DISTRIBUTION
from sensor.cli.bench import bench_group
from sensor.cli.bench_compare import compare_command
from sensor.cli.bench_overload import overload_command
from sensor.cli.bench_read import read_file_command
from sensor.cli.bench_replay import replay_command
from sensor.cli.config import config_group
from sensor.cli.doctor import doctor_command
from sensor.cli.evidence import evidence_group
from sensor.cli.read import read_command
from sensor.cli.rules import rules_group
from sensor.cli.rules_explain import explain_command
from sensor.cli.rules_plan import plan_command
from sensor.cli.rules_reload import reload_command
from sensor.cli.rules_stats import stats_command
from sensor.cli.run import run_command
from sensor.cli.selftest import selftest_command
from sensor.cli.serve import serve_command
from sensor.cli.status import status_command
from sensor.cli.terminal import print_usage_error
from sensor.cli.token import token_group
from sensor.errors import SensorError
from sensor.log import log_to_stderr, print_error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=DISTRIBUTION, message="%(package)s %(version)s")
def cli() -> None:
    """Watch a mirror port and keep exactly the packets that match a rule."""


for command in (compare_command, overload_command, read_file_command, replay_command):
    bench_group.add_command(command)
for command in (explain_command, plan_command, reload_command, stats_command):
    rules_group.add_command(command)
for command in (
    bench_group,
    config_group,
    doctor_command,
    evidence_group,
    read_command,
    rules_group,
    run_command,
    selftest_command,
    serve_command,
    status_command,
    token_group,
):
    cli.add_command(command)


def main() -> None:
    """Run a command; print an error that the user can fix as one line, and exit with its code."""
    log_to_stderr()
    try:
        sys.exit(cli.main(standalone_mode=False))
    except SensorError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        print_usage_error(error)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(128 + signal.SIGINT)
