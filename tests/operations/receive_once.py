"""Receives one file and kills itself at a named point, for tests of recovery."""

from __future__ import annotations

import json
import os
import signal
import sys

from ztfds.operations.context import Context
from ztfds.operations.receive import receive


def main() -> None:
    """Arguments: dsn, places as JSON, file name, point."""
    dsn, places, filename, point = sys.argv[1:]

    def fault(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    receive(Context.build(dsn, json.loads(places), fault=fault), filename, "2018-12-03T04:00:00+00:00", "run")


if __name__ == "__main__":
    main()
