"""The users that the processes of a sensor run as, one for each role.

Used in the supervisor and its children.

An account with the role's name is used if the host has one, such as ``sensor-worker``. Otherwise the process
gets a numeric user and group id that no account has. The ids lie above the ranges that distributions,
systemd, containers and directory services assign (https://systemd.io/UIDS-GIDS).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from enum import Enum
from functools import cache
from typing import NamedTuple

from sensor.errors import PrivilegeError
from sensor.process.capabilities import held_capabilities

FIRST_ID = 2_100_000_000
"""User and group id of the first role on a host without its account; the next ones belong to the others."""
SWITCHING = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL")
"""Capabilities that a supervisor other than root needs: to switch users, to empty the bounding set of
capabilities, and to signal processes of other users."""


class ProcessRole(Enum):
    """A process beside the supervisor; the value is the name of its account."""

    WORKER = "sensor-worker"
    EXPORTER = "sensor-metrics"
    EVENT_SENDER = "sensor-events"
    REINDEXER = "sensor-reindex"
    API = "sensor-api"
    """If ``sensor run`` starts it, the setting ``api_user`` names another account."""
    EVENT_FILES = "sensor-files"
    """Opens files for the event sender; keeps the user of the supervisor."""
    INDEXER = "sensor-index"
    """Writes the index in the directory of the evidence; keeps the user of the supervisor."""
    RETENTION = "sensor-retain"
    """Deletes evidence; keeps the user of the supervisor."""
    COMPILER = "sensor-rules"
    HOLD_KEEPER = "sensor-hold"
    """Writes down which evidence the API is asked to hold; keeps the user of the supervisor."""
    RECALLER = "sensor-recall"


class ProcessUser(NamedTuple):
    """A user and a group."""

    name: str
    uid: int
    gid: int


@cache  # a forked child must not look up accounts: a thread of its parent may have held the lock of that
def identity_of(role: ProcessRole) -> ProcessUser:
    """Return the user and the group of a role.

    Raises:
        PrivilegeError: The account is root, or the numeric id belongs to another account.
    """
    try:
        account = pwd.getpwnam(role.value)
    except KeyError:
        return _numeric_identity(role)
    if account.pw_uid == 0:
        raise PrivilegeError(f"the account {role.value} has the user id 0; give it another one")
    return ProcessUser(role.value, account.pw_uid, account.pw_gid)


def can_switch_users() -> bool:
    """Return True if this process may start processes of other users, and signal them."""
    return set(SWITCHING) <= held_capabilities()


def switch_to(identity: ProcessUser, groups: Sequence[int] = ()) -> None:
    """Switch this process to a user and its group for good; ``groups`` become its supplementary groups.

    Raises:
        OSError: The kernel refuses.
    """
    os.setgroups(groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)


def _numeric_identity(role: ProcessRole) -> ProcessUser:
    number = FIRST_ID + list(ProcessRole).index(role)
    try:
        owner = pwd.getpwuid(number).pw_name
    except KeyError:
        return ProcessUser(role.value, number, number)
    raise PrivilegeError(
        f"user id {number} belongs to {owner}; create an account for the sensor: "
        f"useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {role.value}"
    )
