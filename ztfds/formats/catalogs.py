"""Static catalogs of stars: Gaia for positions, Pan-STARRS1 for magnitudes; tables in a folder, asked by cone.

The folder holds any number of ``gaia*.parquet|fits`` and ``ps1*.parquet|fits`` tables, cut as one likes (one file for
a test, one per sky tile for a survey: a parquet file whose statistics exclude the cone is not opened). Accepted column
names, the first found counts, case does not matter:

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

from ztfds.survey.errors import MissingCatalog, UnreadableFile
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
        """
        rows = self._cone("gaia", ra, dec, radius_deg, _GAIA_COLUMNS, GAIA_DTYPE)
        return rows if epoch_jd is None else move_to_epoch(rows, epoch_jd)

    def ps1(self, ra: float, dec: float, radius_deg: float) -> np.ndarray:
        """Pan-STARRS1 objects in a circle, as `gaia`: ndarray of PS1_DTYPE sorted by distance, or `MissingCatalog`."""
        return self._cone("ps1", ra, dec, radius_deg, _PS1_COLUMNS, PS1_DTYPE)

    def _cone(
        self, prefix: str, ra: float, dec: float, radius_deg: float, columns: Sequence[_Column], dtype: np.dtype
    ) -> np.ndarray:
        """Rows of all files of one kind inside a circle."""
        paths = [p for p in sorted(self.folder.glob(f"{prefix}*")) if p.suffix in (".parquet", ".fits")]
        if not paths:
            raise MissingCatalog(f"{self.folder} holds no {prefix}*.parquet or {prefix}*.fits")
        found = [np.empty(0, dtype)]
        for path in paths:
            if _may_overlap(path, dec, radius_deg):
                rows, vectors = _load(path, path.stat().st_mtime_ns, tuple(columns), dtype)
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
    if path.suffix != ".parquet":
        return True
    low, high = _dec_range(path, path.stat().st_mtime_ns)
    return low <= dec + radius_deg and high >= dec - radius_deg


@lru_cache(maxsize=4096)
def _dec_range(path: Path, mtime_ns: int) -> tuple[float, float]:
    """Smallest and largest declination in a parquet file; the whole sky when its statistics do not say."""
    try:
        meta = pq.read_metadata(path)
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} is not a parquet table: {error}") from error
    names = [meta.schema.column(k).path.lower() for k in range(meta.num_columns)]
    column = next((names.index(alias) for alias in ("dec", "dej2000", "decmean") if alias in names), None)
    if column is None or not meta.num_row_groups:
        return -90.0, 90.0
    stats = [meta.row_group(group).column(column).statistics for group in range(meta.num_row_groups)]
    if any(item is None or not item.has_min_max for item in stats):
        return -90.0, 90.0
    return min(item.min for item in stats), max(item.max for item in stats)


@lru_cache(maxsize=_CACHED_FILES)
def _load(path: Path, mtime_ns: int, columns: tuple[_Column, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """All rows of a file, sorted by declination, with their unit vectors; kept in the process."""
    raw = _read_parquet(path, columns) if path.suffix == ".parquet" else _read_fits(path)
    rows = np.empty(len(next(iter(raw.values()), ())), dtype)
    for column in columns:
        rows[column.name] = _values(raw, column, path)
    for band in "griz":
        if band in (dtype.names or ()):
            rows[band][~(rows[band] > -90)] = np.nan
    rows = rows[np.argsort(rows["dec"], kind="stable")]
    logger.info("catalog %s loaded: %d rows", path.name, len(rows))
    return rows, unit_vector(rows["ra"], rows["dec"])


def _values(raw: dict[str, np.ndarray], column: _Column, path: Path) -> np.ndarray | float:
    """The values of one of our columns, by its name or an alias, or its default."""
    for name in (column.name, *column.aliases):
        if name in raw:
            return raw[name]
    if column.default is None:
        raise UnreadableFile(f"{path} has no column {column.name} (or {', '.join(column.aliases)})")
    return column.default


def _read_parquet(path: Path, columns: Sequence[_Column]) -> dict[str, np.ndarray]:
    """Wanted columns of a parquet file by lower-case name; nulls become NaN."""
    wanted = {name for column in columns for name in (column.name, *column.aliases)}
    try:
        names = [name for name in pq.read_schema(path).names if name.lower() in wanted]
        table = pq.read_table(path, columns=names)
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} is not a parquet table: {error}") from error
    return {name.lower(): table[name].to_numpy() for name in names}


def _read_fits(path: Path) -> dict[str, np.ndarray]:
    """Columns of the first table of a FITS file by lower-case name."""
    try:
        with fits.open(path, memmap=False) as hdus:
            table = next(hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU))
            return {name.lower(): np.asarray(table.data[name]) for name in table.columns.names}
    except StopIteration:
        raise UnreadableFile(f"{path} holds no table") from None
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} is not a FITS table: {error}") from error


__all__ = ["GAIA_DTYPE", "PS1_DTYPE", "StaticCatalogs", "move_to_epoch"]
