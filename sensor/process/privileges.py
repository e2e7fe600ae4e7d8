"""Dropping root privileges: the API answers untrusted clients. Runs in `sensor serve`."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from sensor.errors import EvidenceError, PrivilegeError, SettingsError
from sensor.process.prctl import forbid_new_privileges


def find_account(user: str) -> pwd.struct_passwd:
    """Look up the user that the API switches to.

    Raises:
        SettingsError: There is no such user, or it is root.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError as error:
        raise SettingsError(f"api_user: there is no user {user!r} on this host") from error
    if account.pw_uid == 0:
        raise SettingsError("api_user: the API does not run as root; name another user")
    return account


def drop_privileges(user: str, evidence: Path) -> None:
    """Switch to a user for good, with no group but its own and that of the evidence directory.

    Evidence is readable through the group of its directory (files are 0640). If this process is not
    root, it keeps its user and only checks that it can read the directory.

    Raises:
        SettingsError: There is no such user, or it is root.
        EvidenceError: That user cannot read the evidence directory.
        PrivilegeError: The kernel refuses the switch.
    """
    if os.geteuid() == 0:
        _become(user, evidence)
    if not os.access(evidence, os.R_OK | os.X_OK):
        raise EvidenceError(
            f"{evidence}: {user} cannot read it, or cannot enter a directory above it;"
            " give its group access (chmod g+rxs), or start this as its owner"
        )


def _become(user: str, evidence: Path) -> None:
    account = find_account(user)
    try:
        os.setgroups([evidence.stat().st_gid])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        forbid_new_privileges()
    except OSError as error:
        raise PrivilegeError(f"cannot switch to user {user}: {error.strerror}") from error
