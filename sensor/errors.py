"""The exception tree and the exit codes; every process raises from here.

::

    SensorError                 1   could not do its job
    ├── SettingsError           2   a flag, a variable or the settings file is wrong
    ├── RulesError              2   a rule file cannot be read or a rule is wrong
    ├── PrivilegeError          3   root or a capability is missing
    ├── InterfaceError          4   the interface is missing, down, busy, or lacks native XDP
    ├── KernelError             5   BCC is missing, or the kernel refused program, map or ring
    ├── EvidenceError           6   evidence cannot be written or read
    └── CaptureFileError        7   a capture file is missing, truncated or foreign

Exit code 0 means the job was done; 2 is also what a wrong command line gives; 130 means
that SIGINT ended a command other than ``sensor run``, whose normal end SIGINT is.

Messages are one line that says what is wrong and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class SensorError(Exception):
    """Base of every error that a user can do something about."""

    exit_code: ClassVar[int] = 1


class SettingsError(SensorError):
    """A flag, an environment variable or the settings file is wrong."""

    exit_code = 2


class RulesError(SensorError):
    """A rule file cannot be read, or a rule in it is wrong."""

    exit_code = 2


class PrivilegeError(SensorError):
    """Root, or a capability that stands in for it, is missing."""

    exit_code = 3


class InterfaceError(SensorError):
    """The interface is missing, has no carrier, is taken, or cannot do what was asked."""

    exit_code = 4


class KernelError(SensorError):
    """BCC is missing, or the kernel refused the program, a map or a ring."""

    exit_code = 5


class EvidenceError(SensorError):
    """Evidence cannot be written or read."""

    exit_code = 6


class CaptureFileError(SensorError):
    """A capture file is missing, truncated, or not a capture file."""

    exit_code = 7
