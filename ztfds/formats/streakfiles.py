"""Files of streaks for the depot: the pipe-separated table, and the archive of cutouts."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping

import numpy as np
from astropy.io import fits

COLUMNS = (
    "jd", "fid", "pid", "diffmaglim", "pdiffimfilename", "programpi", "programid", "streakid", "strid", "ra1", "dec1", "ra2",
    "dec2", "startmjd", "endmjd", "flux", "bg", "length", "sigma", "lengtherr", "sigmaerr", "paerr", "bgerr", "fitmagerr",
    "apsnr", "apmagerr", "dmag", "dmagerr", "chi2", "numfit", "prob", "ra1err", "dec1err", "corr1", "ra2err", "dec2err", "corr2",
)  # fmt: skip
"""Columns of the survey's streak table, in its order."""
MORE = (
    "ra", "dec", "raerr", "decerr", "corr", "x", "y", "x1", "y1", "x2", "y2", "pa", "rate", "snr", "fluxerr", "fitmag", "apmag",
    "flags", "field", "rcid", "nid", "exptime",
)  # fmt: skip
"""Columns of ours behind them; pixel positions are 1-based in files."""
PIXELS = ("x", "y", "x1", "y1", "x2", "y2")
STAMPS = ("SCIENCE", "TEMPLATE", "DIFFERENCE")


def text_table(table: np.ndarray, pdiffimfilename: str) -> bytes:
    """Streak table with ``|`` between the columns; a missing number is empty.

    Parameters
    ----------
    table : structured array
        Rows of `difference.streaks.DTYPE`.
    pdiffimfilename : str
        Name of the difference image.
    """
    lines = ["|".join((*COLUMNS, *MORE))]
    for row in table:
        cells = [pdiffimfilename if name == "pdiffimfilename" else _cell(row, name) for name in (*COLUMNS, *MORE)]
        lines.append("|".join(cells))
    return ("\n".join(lines) + "\n").encode()


def _cell(row: np.void, name: str) -> str:
    """One value as text: single precision with 7 digits, double with 16."""
    value = row[name] + 1.0 if name in PIXELS else row[name]
    kind = row.dtype[name]
    if kind.kind == "f":
        return f"{value:.{16 if kind.itemsize == 8 else 7}g}" if np.isfinite(value) else ""
    return str(value)


def read_text_table(content: bytes) -> list[dict[str, str]]:
    """Rows of a streak table, column to text."""
    lines = content.decode().splitlines()
    names = lines[0].split("|")
    return [dict(zip(names, line.split("|"), strict=True)) for line in lines[1:]]


def cutout_name(streakid: int, pid: int) -> str:
    """Name of the cutouts of one streak inside the archive."""
    return f"strkid{streakid}_pid{pid}_scimrefdiff.fits"


def cutout_archive(
    table: np.ndarray, cutouts: Mapping[int, tuple[np.ndarray, np.ndarray, np.ndarray]], others: Mapping[str, bytes]
) -> bytes:
    """Gzipped tar file: one FITS file per streak with three stamps, and other files; the same content gives the same bytes.

    Parameters
    ----------
    table : structured array
        strid, streakid, pid, x, y, length, ...
    cutouts : mapping
        strid -> (science, template, difference), float32, DN.
    others : mapping of name to content
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for row in table:
            name = cutout_name(int(row["streakid"]), int(row["pid"]))
            _add(archive, name, _fits(row, cutouts[int(row["strid"])]))
        for name, content in sorted(others.items()):
            _add(archive, name, content)
    return gzip.compress(packed.getvalue(), 6, mtime=0)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """One member without owner and time."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _fits(row: np.void, stamps: tuple[np.ndarray, np.ndarray, np.ndarray]) -> bytes:
    """Three image extensions; the ends of the streak in each, 1-based pixels of the stamp."""
    size = stamps[0].shape[0]
    corner = {axis: round(float(row[axis])) - size // 2 for axis in "xy"}
    units = [fits.PrimaryHDU()]
    for name, pixels in zip(STAMPS, stamps, strict=True):
        unit = fits.ImageHDU(pixels.astype(np.float32), name=name)
        unit.header["BUNIT"] = "DN"
        unit.header["STREAKID"] = (int(row["streakid"]), "number of the streak")
        for axis in "xy":
            for end in "12":
                keyword = f"{axis}{end}".upper()
                unit.header[keyword] = (
                    float(row[f"{axis}{end}"]) - corner[axis] + 1.0,
                    f"end {end} of the streak [pixels]",
                )
        units.append(unit)
    content = io.BytesIO()
    fits.HDUList(units).writeto(content)
    return content.getvalue()
