"""Publishes the outbox and kills itself at a named point, for tests of recovery."""

from __future__ import annotations

import json
import os
import signal
import sys

from ztfds.registry.publisher import Publisher


def main() -> None:
    """Arguments: dsn, librdkafka settings as JSON, point."""
    dsn, settings, point = sys.argv[1:]

    def fault(reached: str) -> None:
        if reached == f"publish:{point}":
            os.kill(os.getpid(), signal.SIGKILL)

    Publisher(dsn, json.loads(settings), partitions=3, fault=fault).publish()


if __name__ == "__main__":
    main()
