"""Static catalogs of stars: Gaia for positions, Pan-STARRS1 for magnitudes; tables in a folder, asked by cone.

The folder holds any number of ``gaia*.parquet|fits`` and ``ps1*.parquet|fits`` tables, cut as one likes (one file for
a test, one per sky tile for a survey: a parquet file whose statistics exclude the cone is not opened). Accepted column
names, the first found counts, case does not matter. Values that are null, NaN or -999 in a column with a default get the
default; rows without a finite position are dropped:

==============  ============================================  ==========================================
our name        also accepted                                 if absent
==============  ============================================  ==========================================
source_id       id, objid                                     error
ra, dec         raj2000, ramean / dej2000, decmean            error
pmra, pmdec     pm_ra, pm_dec (mas/yr, pmra with cos dec)     0
ra_error        e_ra (mas)                                    1
dec_error       e_dec (mas)                                   1
gmag            phot_g_mean_mag, g                            error
ref_epoch       epoch (Julian year)                           2015.5
objid           objectid, id, source_id                       error
g, r, i, z      gmag, gmeanpsfmag, gpsf ... (AB mag)          NaN (and -999 becomes NaN)
g_err ...       gmagerr, gmeanpsfmagerr, e_gmag ...           0.02
sgscore         ps_score, sgscore1                            0.5
==============  ============================================  ==========================================
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from astropy.io import fits

from ztfds.survey.errors import BadCatalog, MissingCatalog, StoreDown
from ztfds.survey.fields import unit_vector

logger = logging.getLogger(__name__)

GAIA_DTYPE = np.dtype(
    [
        ("source_id", "i8"),
        ("ra", "f8"),
        ("dec", "f8"),
        ("pmra", "f4"),
        ("pmdec", "f4"),
        ("ra_error", "f4"),
        ("dec_error", "f4"),
        ("gmag", "f4"),
        ("ref_epoch", "f4"),
    ]
)
"""Gaia rows: deg (ICRS), mas/yr (pmra includes cos dec), mas, mag, Julian year of the position."""

PS1_DTYPE = np.dtype(
    [
        ("objid", "i8"),
        ("ra", "f8"),
        ("dec", "f8"),
        *[(band, "f4") for band in "griz"],
        *[(f"{band}_err", "f4") for band in "griz"],
        ("sgscore", "f4"),
    ]
)
"""PS1 rows: deg, AB mag (NaN where not measured), mag errors, star/galaxy score (1 star, 0 galaxy)."""

JD_2000 = 2451545.0
DAYS_PER_YEAR = 365.25
MISSING = -999.0
"""What some tables say where a value is missing."""
_CACHED_FILES = 16


@dataclass(frozen=True)
class _Column:
    """How one of our columns is found in a file."""

    name: str
    aliases: tuple[str, ...] = ()
    default: float | None = None


def _band(band: str) -> list[_Column]:
    """Columns of one PS1 band: magnitude and error."""
    magnitude = (f"{band}mag", f"{band}meanpsfmag", f"{band}psf", f"s{band}mag")
    error = (f"{band}magerr", f"{band}meanpsfmagerr", f"e_{band}mag", f"{band}mag_err")
    return [_Column(band, magnitude, float("nan")), _Column(f"{band}_err", error, 0.02)]


_GAIA_COLUMNS = (
    _Column("source_id", ("id", "objid")),
    _Column("ra", ("raj2000", "ramean")),
    _Column("dec", ("dej2000", "decmean")),
    _Column("pmra", ("pm_ra",), 0.0),
    _Column("pmdec", ("pm_dec",), 0.0),
    _Column("ra_error", ("e_ra",), 1.0),
    _Column("dec_error", ("e_dec",), 1.0),
    _Column("gmag", ("phot_g_mean_mag", "g")),
    _Column("ref_epoch", ("epoch",), 2015.5),
)
_PS1_COLUMNS = (
    _Column("objid", ("objectid", "id", "source_id")),
    _Column("ra", ("raj2000", "ramean")),
    _Column("dec", ("dej2000", "decmean")),
    *[column for band in "griz" for column in _band(band)],
    _Column("sgscore", ("ps_score", "sgscore1"), 0.5),
)


class StaticCatalogs:
    """The static catalogs of one folder.

    Parameters
    ----------
    folder : Path or str
        Where the ``gaia*`` and ``ps1*`` tables are.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def gaia(self, ra: float, dec: float, radius_deg: float, epoch_jd: float | None = None) -> np.ndarray:
        """Gaia stars in a circle.

        Parameters
        ----------
        ra, dec, radius_deg : float
            Centre and radius, deg.
        epoch_jd : float, optional
            Julian date to which positions are moved by the proper motions; without it they stay at `ref_epoch`.

        Returns
        -------
        ndarray of GAIA_DTYPE
            Possibly empty; sorted by distance from the centre.

        Raises
        ------
        MissingCatalog
            The folder has no Gaia table.
        BadCatalog
            A file is no table, or lacks a column.
        StoreDown
            The disk refuses.
        """
        rows = self._cone("gaia", ra, dec, radius_deg, _GAIA_COLUMNS, GAIA_DTYPE)
        return rows if epoch_jd is None else move_to_epoch(rows, epoch_jd)

    def ps1(self, ra: float, dec: float, radius_deg: float) -> np.ndarray:
        """Pan-STARRS1 objects in a circle, as `gaia`: ndarray of PS1_DTYPE sorted by distance, or `MissingCatalog`."""
        return self._cone("ps1", ra, dec, radius_deg, _PS1_COLUMNS, PS1_DTYPE)

    @staticmethod
    def empty(kind: str) -> np.ndarray:
        """No rows of one kind, ``gaia`` or ``ps1``."""
        return np.empty(0, GAIA_DTYPE if kind == "gaia" else PS1_DTYPE)

    def check(self) -> dict[str, int]:
        """Open every file once, before work begins.

        Returns
        -------
        dict of str to int
            Rows of each kind, ``gaia`` and ``ps1``.

        Raises
        ------
        MissingCatalog, BadCatalog, StoreDown
            Of the first file that cannot be used, with the reason.
        """
        kinds = (("gaia", _GAIA_COLUMNS, GAIA_DTYPE), ("ps1", _PS1_COLUMNS, PS1_DTYPE))
        counts = dict.fromkeys(("gaia", "ps1"), 0)
        for kind, columns, dtype in kinds:
            for path in self._files(kind):
                counts[kind] += len(_load(path, _mtime_ns(path), columns, dtype)[0])
            if not counts[kind]:
                raise BadCatalog(f"the {kind} tables in {self.folder} hold no row with a position")
        return counts

    def _files(self, prefix: str) -> list[Path]:
        """Tables of one kind; raise `MissingCatalog` when there are none."""
        try:
            found = sorted(path for path in self.folder.iterdir() if path.name.lower().startswith(prefix))
        except FileNotFoundError:
            found = []
        except OSError as error:
            raise StoreDown(f"{self.folder} cannot be read: {error}") from error
        paths = [path for path in found if path.suffix.lower() in (".parquet", ".fits")]
        if not paths:
            raise MissingCatalog(f"{self.folder} holds no {prefix}*.parquet or {prefix}*.fits")
        return paths

    def _cone(
        self, prefix: str, ra: float, dec: float, radius_deg: float, columns: Sequence[_Column], dtype: np.dtype
    ) -> np.ndarray:
        """Rows of all files of one kind inside a circle."""
        found = [np.empty(0, dtype)]
        for path in self._files(prefix):
            if _may_overlap(path, dec, radius_deg):
                rows, vectors = _load(path, _mtime_ns(path), tuple(columns), dtype)
                found.append(_inside(rows, vectors, ra, dec, radius_deg))
        joined = np.concatenate(found)
        return joined[np.argsort(_chord2(joined, ra, dec), kind="stable")]


def move_to_epoch(rows: np.ndarray, epoch_jd: float) -> np.ndarray:
    """Move Gaia positions linearly by their proper motions from `ref_epoch` to a Julian date (< 1 mas off in 20 yr)."""
    moved = rows.copy()
    years = 2000.0 + (epoch_jd - JD_2000) / DAYS_PER_YEAR - rows["ref_epoch"].astype(float)
    moved["dec"] = rows["dec"] + years * rows["pmdec"] / 3.6e6
    moved["ra"] = (rows["ra"] + years * rows["pmra"] / 3.6e6 / np.cos(np.radians(rows["dec"]))) % 360.0
    moved["ref_epoch"] = rows["ref_epoch"] + years
    return moved


def _chord2(rows: np.ndarray, ra: float, dec: float) -> np.ndarray:
    """Squared chord length (rad**2) from each row to a position."""
    return ((unit_vector(rows["ra"], rows["dec"]) - unit_vector(ra, dec)) ** 2).sum(axis=-1)


def _inside(rows: np.ndarray, vectors: np.ndarray, ra: float, dec: float, radius_deg: float) -> np.ndarray:
    """Rows inside a circle; `rows` are sorted by declination, which limits the search to a band."""
    low, high = np.searchsorted(rows["dec"], [dec - radius_deg, dec + radius_deg])
    band = slice(max(0, int(low) - 1), int(high) + 1)
    chord2 = ((vectors[band] - unit_vector(ra, dec)) ** 2).sum(axis=-1)
    return rows[band][chord2 <= (2 * np.sin(np.radians(min(radius_deg, 180.0)) / 2)) ** 2]


def _may_overlap(path: Path, dec: float, radius_deg: float) -> bool:
    """Whether a file can hold rows in a declination band, by the statistics of a parquet file."""
    if path.suffix.lower() != ".parquet":
        return True
    low, high = _dec_range(path, _mtime_ns(path))
    return low <= dec + radius_deg and high >= dec - radius_deg


def _mtime_ns(path: Path) -> int:
    """Time of the last change, ns; raise `StoreDown` if the file went away or the disk refuses."""
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise StoreDown(f"{path} cannot be read: {error}") from error


def _no_table(path: Path, what: str, error: Exception) -> StoreDown | BadCatalog:
    """The error for a file that could not be read: the disk's (with an error number) or the content's."""
    if isinstance(error, OSError) and error.errno is not None:
        return StoreDown(f"{path} cannot be read: {error}")
    return BadCatalog(f"{path} is not a {what} table: {error}")


@lru_cache(maxsize=4096)
def _dec_range(path: Path, mtime_ns: int) -> tuple[float, float]:
    """Smallest and largest declination in a parquet file; the whole sky when its statistics do not say."""
    try:
        meta = pq.read_metadata(path)
    except (OSError, ValueError) as error:
        raise _no_table(path, "parquet", error) from error
    names = [meta.schema.column(k).path.lower() for k in range(meta.num_columns)]
    column = next((names.index(alias) for alias in ("dec", "dej2000", "decmean") if alias in names), None)
    if column is None or not meta.num_row_groups:
        return -90.0, 90.0
    stats = [meta.row_group(group).column(column).statistics for group in range(meta.num_row_groups)]
    if any(item is None or not item.has_min_max for item in stats):
        return -90.0, 90.0
    low, high = min(item.min for item in stats), max(item.max for item in stats)
    return (low, high) if low <= high else (-90.0, 90.0)  # NaN among the positions


@lru_cache(maxsize=_CACHED_FILES)
def _load(path: Path, mtime_ns: int, columns: tuple[_Column, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """All rows of a file, sorted by declination, with their unit vectors; kept in the process."""
    raw = _read_parquet(path, columns) if path.suffix.lower() == ".parquet" else _read_fits(path)
    rows = np.empty(len(next(iter(raw.values()), ())), dtype)
    for column in columns:
        rows[column.name] = _values(raw, column, path, dtype[column.name])
    for band in "griz":
        if band in (dtype.names or ()):
            rows[band][~(rows[band] > -90)] = np.nan
    with np.errstate(invalid="ignore"):
        good = np.isfinite(rows["ra"]) & (np.abs(rows["dec"]) <= 90.0)
    rows = rows[good]
    rows["ra"] %= 360.0
    rows = rows[np.argsort(rows["dec"], kind="stable")]
    dropped = np.count_nonzero(~good)
    logger.info("catalog %s loaded: %d rows, %d without a position dropped", path.name, len(rows), dropped)
    return rows, unit_vector(rows["ra"], rows["dec"])


def _values(raw: dict[str, np.ndarray], column: _Column, path: Path, dtype: np.dtype) -> np.ndarray | float:
    """The values of one of our columns, by its name or an alias, or its default."""
    name = next((name for name in (column.name, *column.aliases) if name in raw), None)
    if name is None:
        if column.default is None:
            raise BadCatalog(f"{path} has no column {column.name} (or {', '.join(column.aliases)})")
        return column.default
    try:
        if dtype.kind == "i":
            return _whole(raw[name])
        values = np.asarray(raw[name], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadCatalog(f"{path}: the column {name} does not hold numbers ({error})") from error
    if column.default is None or np.isnan(column.default):
        return values
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values) & (values != MISSING), values, column.default)


def _whole(values: np.ndarray) -> np.ndarray:
    """Identifiers as 64-bit integers; one that is missing becomes -1."""
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind == "f":
        return np.where(np.isfinite(values), values, -1).astype(np.int64)
    return np.array([-1 if value is None else int(value) for value in values], np.int64)


def _read_parquet(path: Path, columns: Sequence[_Column]) -> dict[str, np.ndarray]:
    """Wanted columns of a parquet file by lower-case name; nulls become NaN."""
    wanted = {name for column in columns for name in (column.name, *column.aliases)}
    try:
        names = [name for name in pq.read_schema(path).names if name.lower() in wanted]
        table = pq.read_table(path, columns=names)
    except (OSError, ValueError) as error:
        raise _no_table(path, "parquet", error) from error
    return {name.lower(): table[name].to_numpy() for name in names}


def _read_fits(path: Path) -> dict[str, np.ndarray]:
    """Columns of the first table of a FITS file by lower-case name."""
    try:
        with fits.open(path, memmap=False) as hdus:
            table = next(hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU))
            return {column.name.lower(): _fits_values(table, column) for column in table.columns}
    except StopIteration:
        raise BadCatalog(f"{path} holds no table") from None
    except (OSError, ValueError) as error:
        raise _no_table(path, "FITS", error) from error


def _fits_values(table: fits.BinTableHDU, column: fits.Column) -> np.ndarray:
    """One column; integers that the header declares null become NaN."""
    values = np.asarray(table.data[column.name])
    if column.null is None or values.dtype.kind not in "iu" or not (values == column.null).any():
        return values
    return np.where(values == column.null, np.nan, values)


__all__ = ["GAIA_DTYPE", "PS1_DTYPE", "StaticCatalogs", "move_to_epoch"]
