"""Catalogs of one quadrant as FITS binary tables. Pixel positions are 1-based in files and 0-based in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from ztfds.formats import structure
from ztfds.formats import units as packed
from ztfds.formats.atomic import Written, write_atomic
from ztfds.formats.images import bare
from ztfds.formats.raw import read_content, write_hdus
from ztfds.survey.errors import UnreadableFile

PIXEL_COLUMNS = ("xpos", "ypos", "x", "y", "xwin", "ywin", "x_image", "y_image", "xwin_image", "ywin_image")
"""Columns (case does not matter) whose values are pixel positions: 1 is added in files and taken off in memory."""

PSFCAT_DTYPE = np.dtype(
    [
        ("sourceid", "i4"),
        ("xpos", "f4"),
        ("ypos", "f4"),
        ("ra", "f8"),
        ("dec", "f8"),
        ("flux", "f4"),
        ("sigflux", "f4"),
        ("mag", "f4"),
        ("sigmag", "f4"),
        ("snr", "f4"),
        ("chi", "f4"),
        ("sharp", "f4"),
        ("flags", "i4"),
    ]
)
"""Columns of the PSF-fit catalog, those of the real survey: positions in pixels (0-based in memory) and deg, flux in
DN, instrumental magnitudes."""
PSFCAT_EXTNAME = "PSF_CATALOG"
PSFCAT_UNITS = {
    "xpos": "pixel",
    "ypos": "pixel",
    "ra": "deg",
    "dec": "deg",
    "flux": "DN",
    "sigflux": "DN",
    "mag": "mag",
    "sigmag": "mag",
}


def _shifted(array: np.ndarray, names: Sequence[str], by: float) -> np.ndarray:
    """A copy of a table whose pixel-position columns are shifted."""
    columns = [name for name in array.dtype.names or () if name.lower() in names]
    if not columns:
        return array
    moved = array.copy()
    for name in columns:
        moved[name] += by
    return moved


def write_table(
    path: Path | str,
    array: np.ndarray,
    header: fits.Header | None = None,
    *,
    extname: str = "CATALOG",
    units: Mapping[str, str] | None = None,
    pixel_columns: Sequence[str] = PIXEL_COLUMNS,
) -> Written:
    """Write a structured array as a FITS binary table, atomically, with checksums.

    Parameters
    ----------
    path : Path or str
        Final name.
    array : structured ndarray, shape (n,)
        Rows; columns may be vectors and fixed-length strings.
    header : fits.Header, optional
        Cards kept in the primary header.
    extname : str
        Name of the table extension.
    units : mapping of str to str, optional
        TUNIT of the columns.
    pixel_columns : sequence of str
        Columns (lower case) that hold 0-based pixel positions in memory.

    Returns
    -------
    Written
    """
    rows, units = _shifted(np.atleast_1d(array), pixel_columns, 1.0), units or {}
    try:
        parts = [packed.primary(packed.cards_of(header)), packed.table(rows, extname, units)]
        return write_atomic(path, packed.sealed(parts))
    except packed.Unusual:
        return write_hdus(path, fits.HDUList([fits.PrimaryHDU(header=bare(header)), _hdu(rows, extname, units)]))


def _hdu(rows: np.ndarray, extname: str, units: Mapping[str, str]) -> fits.BinTableHDU:
    """A table by way of astropy, whatever its columns."""
    table = fits.BinTableHDU(rows, name=extname)
    for index, name in enumerate(rows.dtype.names or (), start=1):
        if name in units:
            table.header[f"TUNIT{index}"] = units[name]
    return table


def read_table(
    path: Path | str,
    extname: str | None = None,
    *,
    pixel_columns: Sequence[str] = PIXEL_COLUMNS,
    verify: bool = False,
) -> tuple[np.ndarray, fits.Header]:
    """Read a table written by `write_table` (or any FITS binary table).

    Returns
    -------
    array : structured ndarray, shape (n,)
        In the machine's byte order, pixel positions 0-based.
    header : fits.Header
        Primary header.

    Raises
    ------
    FilesMissing, TruncatedFile, UnreadableFile, ChecksumMismatch
    """
    path = Path(path)
    content = read_content(path)
    hdus = structure.walk(content, path.name)
    if verify:
        structure.verify_checksums(content, hdus, path.name)
    try:
        array, header = _read(content, hdus, extname)
    except StopIteration:
        raise UnreadableFile(f"{path.name} holds no table") from None
    except (OSError, ValueError, TypeError, KeyError, IndexError, fits.VerifyError) as error:
        raise UnreadableFile(f"{path.name}: the table cannot be read ({error})") from error
    return _shifted(array, pixel_columns, -1.0), header


def _read(content: bytes, hdus: Sequence[structure.Hdu], extname: str | None) -> tuple[np.ndarray, fits.Header]:
    """Rows and primary header, positions as in the file."""
    wanted = [hdu for hdu in hdus if hdu.is_table and extname in (None, hdu.header.get("EXTNAME"))]
    if wanted and (rows := packed.read_table(content, wanted[0])) is not None:
        return rows, bare(hdus[0].header)
    with fits.open(io.BytesIO(content), memmap=False) as opened:
        table = opened[extname] if extname else next(hdu for hdu in opened if isinstance(hdu, fits.BinTableHDU))
        return _native(np.asarray(table.data)), bare(opened[0].header)


def _native(array: np.ndarray) -> np.ndarray:
    """The rows in the machine's byte order, as a plain structured array with text as str."""
    dtype = array.dtype.newbyteorder("=")
    fields = [(name, *_text(dtype[name])) for name in dtype.names or ()]
    return np.array(array, dtype=np.dtype(fields))


def _text(dtype: np.dtype) -> tuple[np.dtype, tuple[int, ...]]:
    """Element type and shape of a column; bytes become text of the same length."""
    base = dtype.base
    return (np.dtype(f"U{base.itemsize}") if base.kind == "S" else base), dtype.shape


def write_psfcat(path: Path | str, catalog: np.ndarray, header: fits.Header | None = None) -> Written:
    """Write a PSF-fit catalog (``psfcat.fits``): the columns of `PSFCAT_DTYPE` in extension PSF_CATALOG."""
    rows = np.empty(len(catalog), dtype=PSFCAT_DTYPE)
    for name in PSFCAT_DTYPE.names or ():
        rows[name] = catalog[name]
    return write_table(path, rows, header, extname=PSFCAT_EXTNAME, units=PSFCAT_UNITS)


def read_psfcat(path: Path | str) -> tuple[np.ndarray, fits.Header]:
    """Read a PSF-fit catalog and the primary header."""
    return read_table(path, PSFCAT_EXTNAME)
