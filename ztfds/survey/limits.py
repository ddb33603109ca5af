"""What a reference image and its inputs must keep to: the versioned table ``data/reference_limits.csv``."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Limit:
    """One rule of the table.

    Attributes
    ----------
    use : str
        ``input``: an image is left out that breaks it; ``quality``: a co-add gets the bit.
    name : str
        Metric that is judged.
    comparison : str
        ``>``, ``<``: broken above, below `limit`; ``outside``: broken outside limit..upper.
    limit, upper : float
        `upper` is NaN except for ``outside``.
    bit : int
        Bit of a reference's infobits; -1 for inputs.
    fatal : bool
        Whether what breaks it is not usable.
    per_area : bool
        Whether the limit scales with the area of the image over that of a full quadrant.
    unit, words, source : str
        Of the metric; what it is, as in "... is 5.1 px, above the limit of 4 px"; where the limit is from.
    version : int
        Version of the table that brought it.
    """

    use: str
    name: str
    comparison: str
    limit: float
    upper: float
    bit: int
    fatal: bool
    per_area: bool
    unit: str
    words: str
    source: str
    version: int

    def broken(self, value: float) -> bool:
        """Whether a value breaks the rule; what is not known (NaN) breaks none."""
        if self.comparison == "outside":
            return value < self.limit or value > self.upper
        return value > self.limit if self.comparison == ">" else value < self.limit

    def explained(self, value: float) -> str:
        """The rule in words, broken by a value."""
        unit = f" {self.unit}" if self.unit else ""
        if self.comparison == "outside":
            beyond = f"outside {self.limit:g} to {self.upper:g}{unit}"
        else:
            beyond = f"{'above' if self.comparison == '>' else 'below'} the limit of {self.limit:.9g}{unit}"
        number = f"{value:.2f}" if abs(value) >= 1e6 else f"{value:.6g}"
        return f"{self.words} is {number}{unit}, {beyond}"


@cache
def _table() -> tuple[Limit, ...]:
    """Every row of the table."""
    with resources.files("ztfds.survey").joinpath("data/reference_limits.csv").open(encoding="utf-8") as lines:
        return tuple(_limit(row) for row in csv.DictReader(lines))


def _limit(row: Mapping[str, str]) -> Limit:
    return Limit(
        use=row["use"],
        name=row["name"],
        comparison=row["comparison"],
        limit=float(row["limit"]),
        upper=float(row["upper"]) if row["upper"] else math.nan,
        bit=int(row["bit"]) if row["bit"] else -1,
        fatal=row["fatal"] == "yes",
        per_area=row["per_area"] == "yes",
        unit=row["unit"],
        words=row["words"],
        source=row["source"],
        version=int(row["version"]),
    )


def limits_version() -> int:
    """Version of the table: that of its newest row."""
    return max(row.version for row in _table())


def reference_limits(
    use: str, version: int | None = None, overrides: Mapping[str, float] | None = None, area_fraction: float = 1.0
) -> tuple[Limit, ...]:
    """The rules of a version of the table: of each metric the newest row up to it.

    Parameters
    ----------
    use : str
        ``input`` or ``quality``.
    version : int, optional
        Default: the newest.
    overrides : mapping of str to float, optional
        Limits by metric that replace those of the table (another camera's).
    area_fraction : float
        Area of the image over that of a full quadrant.

    Returns
    -------
    tuple of Limit
        In the order of the table.
    """
    chosen: dict[str, Limit] = {}
    for row in _table():
        if row.use == use and (version is None or row.version <= version):
            known = chosen.get(row.name)
            if known is None or known.version <= row.version:
                chosen[row.name] = row
    changed = (replace(row, limit=(overrides or {}).get(row.name, row.limit)) for row in chosen.values())
    return tuple(replace(row, limit=row.limit * area_fraction) if row.per_area else row for row in changed)


def limits_digest(version: int | None = None) -> str:
    """Sixteen hexadecimal digits that change with anything in the rules of a version."""
    rules = [repr(row) for use in ("input", "quality") for row in reference_limits(use, version)]
    return hashlib.sha256("\n".join(rules).encode()).hexdigest()[:16]
