"""The commands, a module for each group of them; errors become one line and an exit code."""

from __future__ import annotations

import signal
import sys

import click

from sensor import DISTRIBUTION
from sensor.cli.bench import bench_group
from sensor.cli.bench_replay import compare_command, read_file_command, replay_command
from sensor.cli.config import config_group
from sensor.cli.doctor import doctor_command
from sensor.cli.evidence import evidence_group
from sensor.cli.read import read_command, run_command
from sensor.cli.rules import rules_group
from sensor.cli.rules_reload import reload_command
from sensor.cli.serve import serve_command, token_group
from sensor.cli.status import status_command
from sensor.errors import SensorError
from sensor.log import log_to_stderr, print_error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=DISTRIBUTION)
def cli() -> None:
    """Watch a mirror port and keep exactly the packets that hit a rule."""


cli.add_command(run_command)
cli.add_command(read_command)
cli.add_command(rules_group)
cli.add_command(bench_group)
for command in (replay_command, read_file_command, compare_command):
    bench_group.add_command(command)
cli.add_command(evidence_group)
rules_group.add_command(reload_command)
cli.add_command(status_command)
cli.add_command(config_group)
cli.add_command(doctor_command)
cli.add_command(serve_command)
cli.add_command(token_group)


def main() -> None:
    """Run a command; every error a user can mend becomes one line and its exit code."""
    log_to_stderr()
    try:
        sys.exit(cli.main(standalone_mode=False))
    except SensorError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(128 + signal.SIGINT)
