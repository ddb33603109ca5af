"""What can go wrong between the camera and us, by name: each fault spoils one CCD file as the mountain or the link would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from ztfds.formats.atomic import describe, write_atomic
from ztfds.formats.manifests import ManifestFile
from ztfds.survey import camera as survey_camera
from ztfds.survey.errors import ConfigurationError
from ztfds.survey.names import RawName


@dataclass(frozen=True)
class Delivery:
    """What to put into the inbox, and what the manifest says.

    Attributes
    ----------
    path : Path or None
        File in the staging folder to deliver under its own name; None where nothing comes.
    manifest : ManifestFile
        What the mountain believes it sent.
    again : int
        How many more times the same content is sent later.
    conflicting : Path or None
        Another file, to be sent later under the same name as `path`.
    delay_s : float
        Seconds that the delivery comes late.
    """

    path: Path | None
    manifest: ManifestFile
    again: int = 0
    conflicting: Path | None = None
    delay_s: float = 0.0


@dataclass(frozen=True)
class Fault:
    """One fault to inject: its name, the exposure (index in the plan) and the CCD (0: all CCDs of the exposure)."""

    name: str
    exposure: int
    ccdid: int = 0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `name@exposure` or `name@exposure:ccd`; raise `ConfigurationError` if it is neither."""
        name, _, place = text.partition("@")
        exposure, _, ccd = place.partition(":")
        if name not in {*FAULTS, *WEATHER} or not exposure.isdecimal() or (ccd and not ccd.isdecimal()):
            known = ", ".join(sorted([*FAULTS, *WEATHER]))
            raise ConfigurationError(f"{text!r} is not a fault like truncated@12 or truncated@12:6; known: {known}")
        return cls(name, int(exposure), int(ccd or 0))

    def hits(self, exposure: int, ccdid: int) -> bool:
        """Whether it concerns a CCD file."""
        return self.exposure == exposure and self.ccdid in (0, ccdid)


WEATHER = {"clouded": 6.0}
"""Faults of the sky: mag of extra cloud in the whole exposure."""
LATE_S = 900.0


def listed(path: Path) -> ManifestFile:
    """Manifest entry of a file as it is."""
    written = describe(path)
    return ManifestFile(path.name, written.bytes, written.sha256)


def _truncated(path: Path) -> Delivery:
    """The link broke: the first 60 % arrive. The manifest lists the whole file."""
    entry, content = listed(path), path.read_bytes()
    write_atomic(path, content[: int(0.6 * len(content))])
    return Delivery(path, entry)


def _empty(path: Path) -> Delivery:
    """The link broke at once: a file of no bytes."""
    entry = listed(path)
    write_atomic(path, b"")
    return Delivery(path, entry)


def _unreadable(path: Path) -> Delivery:
    """The content is noise of the right size."""
    entry = listed(path)
    rng = np.random.default_rng(sum(path.name.encode()))
    write_atomic(path, rng.bytes(path.stat().st_size))
    return Delivery(path, entry)


def _bad_checksum(path: Path) -> Delivery:
    """One byte of compressed pixels changed on the way; the file's own DATASUM and the manifest tell."""
    entry = listed(path)
    _flip(path, 1)
    return Delivery(path, entry)


def _flipped_bits(path: Path) -> Delivery:
    """Bits flipped in 64 places of the compressed pixels on the way."""
    entry = listed(path)
    _flip(path, 64)
    return Delivery(path, entry)


def _flip(path: Path, n: int) -> None:
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(sum(path.name.encode()))
    for at in rng.integers(len(content) // 4, 3 * len(content) // 4, n):
        content[int(at)] ^= 1 << int(rng.integers(0, 8))
    write_atomic(path, bytes(content))


def _rewrite(path: Path, target: Path, change: Callable[[fits.HDUList], None]) -> None:
    """Change headers or pixels as the observing system would have: all checksums are right afterwards."""
    with fits.open(path, memmap=False, disable_image_compression=True) as hdus:
        change(hdus)
        write_atomic(target, lambda temporary: hdus.writeto(temporary, checksum=True, output_verify="ignore"))


def _missing_keyword(path: Path) -> Delivery:
    """The observing system wrote no OBSJD, EXPTIME and RAD."""

    def change(hdus: fits.HDUList) -> None:
        for key in ("OBSJD", "EXPTIME", "RAD"):
            del hdus[0].header[key]

    _rewrite(path, path, change)
    return Delivery(path, listed(path))


def _mislabelled(path: Path) -> Delivery:
    """The file name says another CCD than the header."""
    name = RawName.parse(path.name)
    other = RawName(name.ffd, name.field, name.filtercode, name.ccdid % 16 + 1, name.imgtypecode)
    return _renamed(path, other)


def _offgrid(path: Path) -> Delivery:
    """A pointing that belongs to no field of the grid, in the name and in the header."""
    name = RawName.parse(path.name)
    other = RawName(name.ffd, 9999, name.filtercode, name.ccdid, name.imgtypecode)

    def change(hdus: fits.HDUList) -> None:
        hdus[0].header["FIELDID"] = 9999
        hdus[0].header["FILENAME"] = other.filename.removesuffix(".fz")

    _rewrite(path, path, change)
    return _renamed(path, other)


def _renamed(path: Path, other: RawName) -> Delivery:
    target = path.with_name(other.filename)
    path.rename(target)
    return Delivery(target, listed(target))


def _wrong_program(path: Path) -> Delivery:
    """A program that does not exist."""

    def change(hdus: fits.HDUList) -> None:
        hdus[0].header["PROGRMID"] = 9

    _rewrite(path, path, change)
    return Delivery(path, listed(path))


def _wrong_pointing(path: Path) -> Delivery:
    """The header points five degrees away from the field it names."""

    def change(hdus: fits.HDUList) -> None:
        header = hdus[0].header
        for key in ("DECD", "OBJDECD", "TELDECD"):
            header[key] = float(header[key]) - 5.0

    _rewrite(path, path, change)
    return Delivery(path, listed(path))


def _wrong_size(path: Path) -> Delivery:
    """Quadrant 2 has lost its last rows: a read-out that stopped early."""
    with fits.open(path, memmap=False) as hdus:
        image = hdus[2]
        rows = image.data.shape[0] - 8
        hdus[2] = fits.CompImageHDU(
            image.data[:rows].copy(),
            image.header,
            compression_type="RICE_1",
            tile_shape=(min(88, rows), image.data.shape[1]),
        )
        write_atomic(path, lambda temporary: hdus.writeto(temporary, checksum=True, output_verify="ignore"))
    return Delivery(path, listed(path))


def _bad_name(path: Path) -> Delivery:
    """A name that follows no rule."""
    target = path.with_name(path.name.replace("ztf_", "zzz_", 1))
    path.rename(target)
    return Delivery(target, listed(target))


def _missing(path: Path) -> Delivery:
    """Never sent, although the manifest lists it."""
    entry = listed(path)
    path.unlink()
    return Delivery(None, entry)


def _late(path: Path) -> Delivery:
    """Comes a quarter of an hour late."""
    return Delivery(path, listed(path), delay_s=LATE_S)


def _duplicate(path: Path) -> Delivery:
    """The same file is sent a second time."""
    return Delivery(path, listed(path), again=1)


def _conflicting(path: Path) -> Delivery:
    """A second file of the same name but another content follows (one header card differs)."""

    def change(hdus: fits.HDUList) -> None:
        hdus[0].header["FRAMENUM"] = int(hdus[0].header["FRAMENUM"]) + 1000

    second = path.parent / "conflicting" / path.name
    _rewrite(path, second, change)
    return Delivery(path, listed(path), conflicting=second)


FAULTS: dict[str, Callable[[Path], Delivery]] = {
    "truncated": _truncated,
    "empty": _empty,
    "unreadable": _unreadable,
    "bad_checksum": _bad_checksum,
    "flipped_bits": _flipped_bits,
    "missing_keyword": _missing_keyword,
    "mislabelled": _mislabelled,
    "offgrid": _offgrid,
    "wrong_program": _wrong_program,
    "wrong_pointing": _wrong_pointing,
    "wrong_size": _wrong_size,
    "bad_name": _bad_name,
    "missing": _missing,
    "late": _late,
    "duplicate": _duplicate,
    "conflicting": _conflicting,
}
"""Faults of one CCD file by name."""


def extra_cloud(faults: tuple[Fault, ...], exposure: int) -> float:
    """Extra cloud (mag) that the faults put before an exposure."""
    return sum(WEATHER[f.name] for f in faults if f.exposure == exposure and f.name in WEATHER)


def apply(faults: tuple[Fault, ...], path: Path, exposure: int, ccdid: int) -> Delivery:
    """Spoil a staged file as the faults say; without a fault it is delivered as it is."""
    survey_camera.rcid(ccdid, 1)
    for fault in faults:
        if fault.name in FAULTS and fault.hits(exposure, ccdid):
            return FAULTS[fault.name](path)
    return Delivery(path, listed(path))
