"""Giving up root: the API reads other people's traffic and talks to strangers. Runs in `sensor serve`."""

from __future__ import annotations

import ctypes
import os
import pwd
from pathlib import Path

from sensor.errors import EvidenceError, PrivilegeError, SettingsError

_PR_SET_NO_NEW_PRIVS = 38


def find_account(user: str) -> pwd.struct_passwd:
    """Look up whom the API is to run as.

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
    """Become that user for good, with the group of the evidence directory and no other.

    The group is what lets it read evidence (files are 0640). Nothing happens where this is not root.

    Raises:
        SettingsError: There is no such user, or it is root.
        EvidenceError: The evidence directory cannot be read with that.
        PrivilegeError: The kernel refuses.
    """
    if os.geteuid() == 0:
        _become(user, evidence)
    if not os.access(evidence, os.R_OK | os.X_OK):
        raise EvidenceError(
            f"{evidence}: {user} may not read it, or not pass what is above it;"
            " let the group of the directory in (chmod g+rxs), or start this as its owner"
        )


def _become(user: str, evidence: Path) -> None:
    account = find_account(user)
    try:
        os.setgroups([evidence.stat().st_gid])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except OSError as error:
        raise PrivilegeError(f"cannot become {user}: {error.strerror}") from error
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise PrivilegeError(f"cannot give up privileges: {os.strerror(ctypes.get_errno())}")
