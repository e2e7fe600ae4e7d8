"""Dropping privileges: the API answers untrusted clients. Runs in `sensor serve`."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection
from pathlib import Path

from sensor.errors import EvidenceError, SettingsError
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole, ProcessUser, can_switch_users, identity_of
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
    if 0 in (account.pw_uid, account.pw_gid):
        raise SettingsError("api_user: the API does not run as root, nor in its group; name another user")
    return account


def drop_privileges(user: str, evidence: Path, readable: Collection[Path] = ()) -> None:
    """Enter the sandbox of the API, as a user with no group but its own and that of the evidence directory.

    Evidence is readable through the group of its directory (files are 0640), or through that of the API,
    which root gives to the directories it makes; never through root's. If this process may not switch users,
    it keeps its user and only checks that it can read the directory. ``readable`` is what else it may read.

    Raises:
        SettingsError: There is no such user, or it is root.
        EvidenceError: That user cannot read the evidence directory.
        PrivilegeError: The kernel refuses the switch.
    """
    identity = ProcessUser(user, os.geteuid(), os.getegid())
    if os.geteuid() == 0 or can_switch_users():
        account = find_account(user)
        identity = ProcessUser(user, account.pw_uid, account.pw_gid)
    group = evidence.stat().st_gid
    sandbox.enter(
        ProcessRole.API,
        descriptors=None,  # it was executed, and has none but its own
        identity=identity,
        groups=sorted({group, identity_of(ProcessRole.API).gid} - {0}),
        access=Access(readable=(evidence, *readable, *sandbox.LIBRARIES, *_ZONES, Path("/proc/self"))),
    )
    if os.access(evidence, os.R_OK | os.X_OK):
        return
    if group == 0:
        raise EvidenceError(
            f"{evidence} belongs to the group root, whose rights the API gives up; choose another group:"
            f" chgrp -R GROUP {evidence}; chmod -R g+rX {evidence};"
            f" find {evidence} -type d -exec chmod g+s {{}} +"
        )
    raise EvidenceError(
        f"{evidence}: {user} cannot read it, or cannot enter a directory above it;"
        " give its group access (chmod g+rxs), or start this as its owner"
    )
