"""All exceptions and the exit codes of the commands. Used in every process.

::

    SensorError                 1   the command failed
    ├── SettingsError           2   a flag, a variable or the settings file is wrong
    ├── RulesError              2   a rule file cannot be read or a rule is wrong
    ├── PrivilegeError          3   root or a capability is missing
    ├── InterfaceError          4   the interface is missing, down, busy, or lacks native XDP
    ├── KernelError             5   BCC is missing, or the kernel refused program, map or ring
    ├── EvidenceError           6   evidence cannot be written or read
    └── CaptureFileError        7   a capture file is missing, truncated or foreign

Exit code 0 means success. A wrong command line also gives 2. A command that SIGINT interrupts gives 130,
except ``sensor run``, which SIGINT ends normally.

A message is one line that says what is wrong and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class SensorError(Exception):
    """Base of all errors that the user can do something about."""

    exit_code: ClassVar[int] = 1


class SettingsError(SensorError):
    """A flag, an environment variable or the settings file is wrong."""

    exit_code = 2


class RulesError(SensorError):
    """A rule file cannot be read, or a rule in it is wrong."""

    exit_code = 2


class PrivilegeError(SensorError):
    """Root or a capability is missing."""

    exit_code = 3


class InterfaceError(SensorError):
    """The interface is missing, has no carrier, is busy, or does not support what was asked."""

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
