"""Commands that end with the process that started them. Used by the benchmarks and the demo."""

from __future__ import annotations

import os


def tied(*command: str) -> list[str]:
    """Return a command line that runs ``command`` and is killed by the kernel when this process ends.

    setpriv(1) asks the kernel for that; the shell starts the command only if this process is still alive.
    """
    if_alive = f'test "$PPID" = {os.getpid()} && exec "$0" "$@"'
    return ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", if_alive, *command]
