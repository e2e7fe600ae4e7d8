"""Dropping privileges: the API answers untrusted clients. Runs in `sensor serve`."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection
from pathlib import Path

from sensor.errors import EvidenceError, SettingsError
from sensor.process import sandbox
from sensor.process.accounts import ProcessUser, Role, can_switch_users
from sensor.process.landlock import Access

_ZONES = (Path("/etc/localtime"), Path("/usr/share/zoneinfo"))


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


def drop_privileges(user: str, evidence: Path, readable: Collection[Path] = ()) -> None:
    """Enter the sandbox of the API, as a user with no group but its own and that of the evidence directory.

    Evidence is readable through the group of its directory (files are 0640). If this process may not switch
    users, it keeps its user and only checks that it can read the directory. ``readable`` is what else it
    may read.

    Raises:
        SettingsError: There is no such user, or it is root.
        EvidenceError: That user cannot read the evidence directory.
        PrivilegeError: The kernel refuses the switch.
    """
    identity = ProcessUser(user, os.geteuid(), os.getegid())
    if os.geteuid() == 0 or can_switch_users():
        account = find_account(user)
        identity = ProcessUser(user, account.pw_uid, account.pw_gid)
    sandbox.enter(
        Role.API,
        descriptors=None,  # it was executed, and has none but its own
        identity=identity,
        groups=[evidence.stat().st_gid],
        access=Access(readable=(evidence, *readable, *sandbox.LIBRARIES, *_ZONES, Path("/proc/self"))),
    )
    if not os.access(evidence, os.R_OK | os.X_OK):
        raise EvidenceError(
            f"{evidence}: {user} cannot read it, or cannot enter a directory above it;"
            " give its group access (chmod g+rxs), or start this as its owner"
        )
