"""Processes one CCD file and kills itself at a named point, for tests of recovery."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace

from ztfds.operations.context import Context
from ztfds.operations.realtime import process_ccd


def main() -> None:
    """Arguments: dsn, places as JSON, file name, point."""
    dsn, places, filename, point = sys.argv[1:]

    def fault(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    context = Context.build(dsn, json.loads(places), fault=fault)
    process_ccd(replace(context, camera=replace(context.camera, ccdids=(6,))), filename, None, "run")


if __name__ == "__main__":
    main()
