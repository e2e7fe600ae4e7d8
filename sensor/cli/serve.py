"""``sensor serve`` and ``sensor token``: the evidence API, and who may ask it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from sensor.api.tokens import TokenFile
from sensor.config.settings import load_settings

_PATH = click.Path(path_type=Path)

_config = click.option("--config", type=_PATH, help="Settings file (TOML).")
_evidence = click.option("--evidence", type=_PATH, help="Directory of the evidence files.  [/data/cap]")


@click.command("serve")
@_config
@_evidence
@click.option("--listen", metavar="ADDRESS:PORT", help="Where to listen.  [127.0.0.1:8321]")
@click.option("--rules", type=_PATH, help="Directory of the rule files.  [our own]")
@click.option("--lenient", is_flag=True, default=None, help="Skip faulty rules instead of refusing all.")
@click.option("--token-required", is_flag=True, default=None, help="Demand a token on loopback too.")
@click.option("--tls-cert", type=_PATH, help="Certificate, with its chain (PEM).")
@click.option("--tls-key", type=_PATH, help="Its private key (PEM).")
@click.option("--tls-client-ca", type=_PATH, help="Authority (PEM); its clients alone are let in.")
@click.option("--api-user", help="Whom to run as when started by root.  [nobody]")
@click.option("--audit", type=_PATH, help="File of the lines that say who saw what.  [the log]")
@click.option("--export-mib", type=int, help="Most MiB of one download.  [1024]")
@click.option("--request-rate", type=int, help="Requests a second and client; 0: any number.  [100]")
@click.option("--until-eof", is_flag=True, hidden=True, help="End when standard input does.")
def serve_command(config: Path | None, until_eof: bool, **flags: Any) -> None:
    """Serve the evidence: lookup by microsecond, search, downloads, and the page."""
    from sensor.api.server import serve  # no other command needs a web server

    serve(load_settings(flags, config), until_eof=until_eof)


@click.group("token")
def token_group() -> None:
    """Make, list and revoke the tokens of the API."""


@token_group.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(["read", "admin"]), default="read", help="admin: sees who has one.")
@_config
@_evidence
def create_command(name: str, role: str, config: Path | None, evidence: Path | None) -> None:
    """Make a token for NAME and print it: it is shown this once."""
    settings = load_settings({"evidence": evidence}, config)
    click.echo(TokenFile(settings.evidence).create(name, "admin" if role == "admin" else "read"))


@token_group.command("list")
@_config
@_evidence
def list_command(config: Path | None, evidence: Path | None) -> None:
    """Print who has a token, a line each: name, role, when it was made."""
    for token in TokenFile(load_settings({"evidence": evidence}, config).evidence).list():
        created = datetime.fromtimestamp(token.created_us // 1_000_000, UTC)
        click.echo(f"{token.name:<24} {token.role:<6} {created:%Y-%m-%d %H:%M}")


@token_group.command("revoke")
@click.argument("name")
@_config
@_evidence
def revoke_command(name: str, config: Path | None, evidence: Path | None) -> None:
    """Refuse the token of NAME from the next request on."""
    TokenFile(load_settings({"evidence": evidence}, config).evidence).revoke(name)
