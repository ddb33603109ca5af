"""Several arrays in one file, one behind the other in NumPy's format; the last one, which may be large, is memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ztfds.formats.atomic import Written, write_atomic
from ztfds.survey.errors import UnreadableFile


def write_arrays(path: Path, about: Mapping[str, Any], arrays: list[np.ndarray]) -> Written:
    """Write facts (JSON) and arrays, completely or not at all."""

    def writer(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            for array in (np.frombuffer(json.dumps(about).encode(), np.uint8), *arrays):
                np.save(stream, array, allow_pickle=False)

    return write_atomic(path, writer)


def read_arrays(path: Path, count: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read the facts and `count` arrays back; the last one is a read-only memory map.

    Raises
    ------
    UnreadableFile
        It was not written by `write_arrays`, or it is cut off.
    """
    try:
        with path.open("rb") as stream:
            about = json.loads(np.load(stream, allow_pickle=False).tobytes())
            arrays = [np.load(stream, allow_pickle=False) for _ in range(count - 1)]
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            offset, size = stream.tell(), path.stat().st_size
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableFile(f"{path.name} cannot be read: {error}") from error
    if size - offset != dtype.itemsize * int(np.prod(shape)):
        raise UnreadableFile(f"{path.name} has {size - offset} bytes of data, its header promises others")
    last = np.memmap(path, dtype, "r", offset, shape) if np.prod(shape) else np.zeros(shape, dtype)
    return about, [*arrays, last]
