"""What services need of the machine that they run on: loopback ports, room on disks, files that only their owner may read."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Protocol

from ztfds.survey.errors import ConfigurationError

PORT_RANGE = (20000, 32000)
"""Below the range from which Linux takes ports for outgoing connections, so that a remembered port stays free."""


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(taken: set[int]) -> int:
    """Choose a loopback port nobody listens on, other than those in `taken`.

    Raises
    ------
    ConfigurationError
        There is none.
    """
    for port in random.SystemRandom().sample(range(*PORT_RANGE), 200):
        if port not in taken and port_is_free(port):
            return port
    raise ConfigurationError("no free port on 127.0.0.1")


class DiskUsage(Protocol):
    """What `shutil.disk_usage` returns, bytes."""

    @property
    def used(self) -> int:
        """Taken."""

    @property
    def free(self) -> int:
        """Left for everybody."""


def free_share(usage: DiskUsage) -> float:
    """Share of a disk that is free, of what everybody may use: as ``df`` says it. What is kept for root counts neither way."""
    return usage.free / max(usage.used + usage.free, 1)


def write_private(path: Path, text: str) -> None:
    """Write a text file that only its owner can read (0600), in one atomic step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
