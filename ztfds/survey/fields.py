"""The survey's grid of fields: which number points where, and whether a pointing belongs to its field."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from types import MappingProxyType

import numpy as np

from ztfds.survey.errors import Mislabelled, OffGridField

POINTING_TOLERANCE_DEG = 0.15
"""How far a telescope may point from its field: real pointings are off by up to 0.06 deg, neighbouring fields by 7 deg
(same grid) or about 1.7 deg (the other grid)."""


@dataclass(frozen=True)
class Field:
    """One field of the grid.

    Attributes
    ----------
    fieldid : int
        1..999 main grid, 1001..1999 secondary grid.
    ra, dec : float
        Centre, ICRS deg.
    """

    fieldid: int
    ra: float
    dec: float

    @property
    def grid(self) -> int:
        """0 main grid, 1 secondary grid (the field number divided by 1000)."""
        return self.fieldid // 1000


@lru_cache(maxsize=1)
def all_fields() -> dict[int, Field]:
    """Every field of the grid by number."""
    with resources.files("ztfds.survey").joinpath("data/fields.csv").open(encoding="utf-8") as table:
        fields = (Field(int(row["id"]), float(row["ra"]), float(row["dec"])) for row in csv.DictReader(table))
        return {field.fieldid: field for field in fields}


def get(fieldid: int) -> Field:
    """Find a field by its number; raise `OffGridField` if it is not in the grid."""
    try:
        return all_fields()[fieldid]
    except KeyError:
        raise OffGridField(f"field {fieldid} is not in the grid of {len(all_fields())} fields") from None


@lru_cache(maxsize=1)
def _unit_vectors() -> tuple[np.ndarray, np.ndarray]:
    """Field numbers, shape (n,), and unit vectors of their centres, shape (n, 3)."""
    fields = list(all_fields().values())
    vectors = unit_vector(np.array([f.ra for f in fields]), np.array([f.dec for f in fields]))
    return np.array([f.fieldid for f in fields]), vectors


def unit_vector(ra: np.ndarray | float, dec: np.ndarray | float) -> np.ndarray:
    """Unit vectors of sky positions (deg), shape (..., 3)."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def separation_deg(ra1: float, dec1: float, ra2: float, dec2: float) -> float:
    """Angular distance of two sky positions, deg; exact for small and large angles."""
    one, two = unit_vector(ra1, dec1), unit_vector(ra2, dec2)
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(one, two)), one @ two)))


def nearest(ra: float, dec: float, grid: int | None = None) -> tuple[Field, float]:
    """Find the field whose centre is nearest.

    Parameters
    ----------
    ra, dec : float
        Position, deg.
    grid : int, optional
        0 main grid only, 1 secondary grid only.

    Returns
    -------
    field : Field
    separation : float
        Distance of its centre, deg.
    """
    numbers, vectors = _unit_vectors()
    closeness = vectors @ unit_vector(ra, dec)
    if grid is not None:
        closeness = np.where(numbers // 1000 == grid, closeness, -2.0)
    field = get(int(numbers[np.argmax(closeness)]))
    return field, separation_deg(ra, dec, field.ra, field.dec)


def check_pointing(
    fieldid: int,
    ra: float,
    dec: float,
    tolerance_deg: float = POINTING_TOLERANCE_DEG,
    off_grid: Mapping[int, Field] = MappingProxyType({}),
) -> Field:
    """Return the field if the pointing belongs to it.

    Parameters
    ----------
    fieldid : int
    ra, dec : float
        Pointing, deg.
    tolerance_deg : float
    off_grid : mapping of int to Field
        Fields that were prepared although they are not in the grid.

    Raises
    ------
    OffGridField
        The number is not in the grid.
    Mislabelled
        The telescope pointed more than `tolerance_deg` from the field's centre.
    """
    field = off_grid.get(fieldid) or get(fieldid)
    off = separation_deg(ra, dec, field.ra, field.dec)
    if off > tolerance_deg:
        other, distance = nearest(ra, dec)
        raise Mislabelled(
            f"pointing ({ra:.4f}, {dec:.4f}) is {off:.3f} deg from the centre of field {fieldid}; "
            f"nearest is field {other.fieldid} at {distance:.3f} deg"
        )
    return field
