"""What is known of each amplifier: linearity with its dates of validity, and nominal gain, noise and saturation."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from ztfds.survey.errors import ConfigurationError

GAIN_E_PER_DN = 6.2
"""Nominal gain, electrons per DN."""
READ_NOISE_E = 10.0
"""Nominal read noise, electrons."""
SATURATION_DN = 49000.0
"""Nominal saturation of a calibrated science image, DN (SATURATE of a real header: 49004.898)."""
RAW_CEILING_DN = 65535
"""Largest value of the 16-bit converter, DN."""
DARK_CURRENT_E_PER_S = 1.0
"""DARKCUR of a real header, electrons per second and pixel."""


@dataclass(frozen=True)
class Linearity:
    """Linearity of one amplifier in one period: ``DN_true = x / (a x**2 + b x + 1)`` with x the measured DN.

    Attributes
    ----------
    from_mjd : int
        First day of validity, MJD.
    a, b : float
        Coefficients, DN**-2 and DN**-1.
    """

    from_mjd: int
    a: float
    b: float


@lru_cache(maxsize=1)
def _table() -> dict[tuple[int, int], list[Linearity]]:
    """Periods by (ccdid, qid), the oldest first."""
    table: dict[tuple[int, int], list[Linearity]] = {}
    with resources.files("ztfds.survey").joinpath("data/linearity.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            key = int(row["ccdid"]), int(row["ampid"]) + 1
            table.setdefault(key, []).append(Linearity(int(row["from_mjd"]), float(row["a"]), float(row["b"])))
    return {key: sorted(periods, key=lambda item: item.from_mjd) for key, periods in table.items()}


def linearity_period(ccdid: int, qid: int, mjd: float) -> Linearity:
    """The linearity period of one amplifier that holds at a date (MJD); raise `ConfigurationError` without one."""
    valid = [item for item in _table().get((ccdid, qid), []) if item.from_mjd <= mjd]
    if not valid:
        raise ConfigurationError(f"no linearity coefficients for CCD {ccdid} quadrant {qid} at MJD {mjd}")
    return valid[-1]


def linearity(ccdid: int, qid: int, mjd: float) -> tuple[float, float]:
    """Coefficients (a, b) of ``DN_true = x / (a x**2 + b x + 1)`` of one amplifier at a date (MJD)."""
    period = linearity_period(ccdid, qid, mjd)
    return period.a, period.b
