"""Child processes that end with their parent, for measurements and the demo."""

from __future__ import annotations

import os


def tied(*command: str) -> list[str]:
    """Put in front of a command what makes the kernel kill it when this process ends, however that happens.

    setpriv asks the kernel for it; the shell goes on only if this process still lived by then.
    """
    if_alive = f'test "$PPID" = {os.getpid()} && exec "$0" "$@"'
    return ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", if_alive, *command]
