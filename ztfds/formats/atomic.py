"""Writing files so that nobody ever sees half of one: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ztfds.survey.errors import StoreDown

Piece = bytes | np.ndarray
"""A part of a file's content: bytes, or an array whose memory is what is to be written."""
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


def view_of(piece: Piece) -> memoryview:
    """The bytes of a piece."""
    if isinstance(piece, bytes):
        return memoryview(piece)
    return np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data


def _write(path: Path, pieces: Sequence[Piece]) -> Written:
    """Write pieces to a new file and force them to disk; the checksum is taken on the way, without reading them again."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb", buffering=0) as stream:
        for piece in pieces:
            view = view_of(piece)
            digest.update(view)
            size += view.nbytes
            while view.nbytes:
                view = view[stream.write(view) :]
        os.fsync(stream.fileno())
    return Written(path, size, digest.hexdigest())


def write_atomic(path: Path | str, writer: Callable[[Path], object] | bytes | Sequence[Piece]) -> Written:
    """Write a file completely or not at all.

    Parameters
    ----------
    path : Path or str
        Final name; its folder is made if it is not there. An older file of this name is replaced.
    writer : callable, bytes or sequence of buffers
        Writes the content to the (not yet existing) temporary path it is given; or the content itself, whole or in pieces.

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
        if callable(writer):
            writer(temporary)
            _sync(temporary)
            written = describe(temporary)
        else:
            written = _write(temporary, [writer] if isinstance(writer, bytes) else writer)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise StoreDown(f"cannot write {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return Written(path, written.bytes, written.sha256)
