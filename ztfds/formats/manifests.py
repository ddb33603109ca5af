"""Manifests: the mountain's list of the files it sent, for the afternoon's calibrations and for the night."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ztfds.formats.atomic import Written, write_atomic
from ztfds.survey import ids, names
from ztfds.survey.errors import FilesMissing, MissingKeyword, TruncatedFile, UnreadableFile


@dataclass(frozen=True)
class ManifestFile:
    """One file that was sent.

    Attributes
    ----------
    name : str
        File name.
    bytes : int
        Size.
    sha256 : str
        Checksum of the content, hex.
    """

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All files of one part of one night.

    Attributes
    ----------
    night : str
        UT date, ``YYYYMMDD``.
    nid : int
        Night number.
    part : str
        ``night`` or ``calibration``.
    camera : str
        Name of the camera.
    created : str
        When the list was made, ISO 8601 UTC.
    files : tuple of ManifestFile
        In the order sent.
    """

    night: str
    nid: int
    part: str
    camera: str
    created: str
    files: tuple[ManifestFile, ...]

    @property
    def filename(self) -> str:
        """Its file name."""
        return names.manifest_filename(self.night, self.part)


def make_manifest(night: str, part: str, camera: str, created: str, files: Sequence[ManifestFile]) -> Manifest:
    """Put a manifest together; the night number follows from the date."""
    return Manifest(night, ids.nid_of_date(night), part, camera, created, tuple(files))


def write_manifest(path: Path | str, manifest: Manifest) -> Written:
    """Write a manifest as JSON, atomically. A folder as `path` gets the manifest's own file name."""
    path = Path(path)
    path = path / manifest.filename if path.is_dir() else path
    return write_atomic(path, (json.dumps(asdict(manifest), indent=1) + "\n").encode())


def read_manifest(path: Path | str) -> Manifest:
    """Read a manifest.

    Raises
    ------
    FilesMissing
        There is no such file.
    TruncatedFile
        The JSON ends too early.
    UnreadableFile
        It is not JSON, or says something impossible.
    MissingKeyword
        An entry is not there.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FilesMissing(f"{path} cannot be opened: {error}") from error
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"{path.name} is not text") from error
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        kind = TruncatedFile if cut else UnreadableFile
        raise kind(f"{path.name} is not whole JSON: {error}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without an end
        raise UnreadableFile(f"{path.name} is no manifest: {error}") from error
    return _manifest(content, path.name)


def _manifest(content: Any, name: str) -> Manifest:
    """Check what the JSON says and build the manifest."""
    try:
        files = tuple(ManifestFile(str(f["name"]), int(f["bytes"]), str(f["sha256"])) for f in content["files"])
        made = make_manifest(
            str(content["night"]), str(content["part"]), str(content["camera"]), str(content.get("created", "")), files
        )
        told = int(content.get("nid", made.nid))
    except KeyError as error:
        raise MissingKeyword(f"{name} has no entry {error}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UnreadableFile(f"{name} is not a manifest: {error}") from error
    if told != made.nid or made.part not in ("night", "calibration"):
        raise UnreadableFile(f"{name} contradicts itself: night {made.night}, nid {content.get('nid')}, {made.part}")
    return made
