"""Writing files so that nobody ever sees half of one: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ztfds.survey.errors import StoreDown

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Written:
    """A file that is on disk.

    Attributes
    ----------
    path : Path
        Where it is.
    bytes : int
        Its size.
    sha256 : str
        Checksum of its content, hex.
    """

    path: Path
    bytes: int
    sha256: str


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def describe(path: Path) -> Written:
    """Size and checksum of a file that exists."""
    return Written(path, path.stat().st_size, sha256_of(path))


def _sync(path: Path) -> None:
    """Force a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path | str, writer: Callable[[Path], object] | bytes) -> Written:
    """Write a file completely or not at all.

    Parameters
    ----------
    path : Path or str
        Final name; its folder is made if it is not there. An older file of this name is replaced.
    writer : callable or bytes
        Writes the content to the (not yet existing) temporary path it is given; or the content itself.

    Returns
    -------
    Written

    Raises
    ------
    StoreDown
        The file system refused (full, read-only, gone).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(writer, bytes):
            temporary.write_bytes(writer)
        else:
            writer(temporary)
        _sync(temporary)
        written = describe(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise StoreDown(f"cannot write {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return Written(path, written.bytes, written.sha256)
