"""``sensor token``: the tokens of the evidence API."""

from __future__ import annotations

from pathlib import Path

import click

from sensor.api.tokens import TokenFile
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_line
from sensor.config.loading import load_settings
from sensor.text import utc_text


@click.group("token")
def token_group() -> None:
    """Create, list and revoke tokens of the API."""


@token_group.command("create")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["read", "admin"]),
    default="read",
    show_default=True,
    help="What the token allows: read evidence, or also hold it and list tokens.",
)
@setting_options("token create")
def create_command(name: str, role: str, config: Path | None, evidence: Path | None) -> None:
    """Create a token for NAME and print it. It cannot be shown again."""
    settings = load_settings({"evidence": evidence}, config)
    print_line(TokenFile(settings.evidence).create(name, "admin" if role == "admin" else "read"))


@token_group.command("list")
@setting_options("token list")
def list_command(config: Path | None, evidence: Path | None) -> None:
    """List the tokens: name, role, and when each was created."""
    for token in TokenFile(load_settings({"evidence": evidence}, config).evidence).list():
        created_minute = utc_text(token.created_us, " ")[: len("2026-01-31 23:59")]
        print_line(f"{token.name:<24} {token.role:<6} {created_minute}")


@token_group.command("revoke")
@click.argument("name")
@setting_options("token revoke")
def revoke_command(name: str, config: Path | None, evidence: Path | None) -> None:
    """Revoke the token of NAME, from the next request on."""
    TokenFile(load_settings({"evidence": evidence}, config).evidence).revoke(name)
