"""The roles describe their variables, and accept the example inventory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from sensor.config.settings import Settings

ANSIBLE = Path(__file__).parents[1] / "ansible"
ROLES = ("sensor", "monitoring")


def load(path: str) -> Any:
    """Return the content of a YAML file of the roles."""
    return yaml.safe_load((ANSIBLE / "roles" / path).read_text())


def options(role: str) -> dict[str, dict[str, Any]]:
    """Return the variables that a role declares."""
    return dict(load(f"{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"])


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_described_with_its_default(role: str) -> None:
    """Specification and defaults have the same variables, with the same values."""
    assert {name: option["default"] for name, option in options(role).items()} == load(
        f"{role}/defaults/main.yml"
    )
    assert all(option["description"] for option in options(role).values())


@pytest.mark.parametrize("role", ROLES)
def test_defaults_have_their_types(role: str) -> None:
    """Ansible accepts the defaults."""
    result = ArgumentSpecValidator(options(role)).validate(load(f"{role}/defaults/main.yml"))
    assert result.error_messages == []


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the variables of each host in the example inventory."""
    command = [Path(sys.executable).with_name("ansible-inventory"), "--list"]
    environment = {**os.environ, "ANSIBLE_HOME": str(tmp_path_factory.mktemp("ansible"))}
    done = subprocess.run(
        command, cwd=ANSIBLE, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return dict(json.loads(done.stdout)["_meta"]["hostvars"])


@pytest.mark.parametrize(
    ("host", "role"),
    [("probe1.example", "sensor"), ("probe2.example", "sensor"), ("watch.example", "monitoring")],
)
def test_the_roles_accept_the_example_inventory(
    inventory: dict[str, dict[str, Any]], host: str, role: str
) -> None:
    """The program accepts the settings in it, too."""
    given = {name: value for name, value in inventory[host].items() if name.startswith(f"{role}_")}
    assert given
    assert ArgumentSpecValidator(options(role)).validate(given).error_messages == []
    Settings(**given.get("sensor_settings", {}))
