"""The quality figures that are followed over time: the table ``data/quality_figures.csv``, and what counts as a departure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

LEAST_HISTORY = 5
"""So many earlier values are needed before anything can depart from them."""


@dataclass(frozen=True)
class Figure:
    """One quality figure of a quadrant image.

    Attributes
    ----------
    name : str
        As in ``qa_metrics``.
    step : str
        Step that measures it.
    unit, words : str
        Unit, and what it is for people.
    digits : int
        Digits after the point that are shown.
    sigmas : float
        A value departs that is further from the median of its history than so many times its scatter.
    floor : float
        Smallest scatter that is believed, in the unit of the figure.
    """

    name: str
    step: str
    unit: str
    words: str
    digits: int
    sigmas: float
    floor: float

    @property
    def label(self) -> str:
        """Words with the unit."""
        return f"{self.words} ({self.unit})" if self.unit else self.words


@cache
def all_figures() -> tuple[Figure, ...]:
    """Every row of the table, in its order."""
    with resources.files("ztfds.survey").joinpath("data/quality_figures.csv").open(encoding="utf-8") as lines:
        return tuple(
            Figure(r["name"], r["step"], r["unit"], r["words"], int(r["digits"]), float(r["sigmas"]), float(r["floor"]))
            for r in csv.DictReader(lines)
        )


@dataclass(frozen=True)
class Band:
    """Where the values of a figure lie that do not depart from their history; both ends NaN where there is too little of it."""

    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is enough history."""
        return bool(np.isfinite(self.low))

    def departs(self, value: float) -> bool:
        """Whether a value is outside; nothing is outside of an unknown band."""
        return value < self.low or value > self.high


def band(figure: Figure, history: Sequence[float], scatter: float = 0.0) -> Band:
    """The band of a figure: median of its history ± `sigmas` times its scatter.

    Parameters
    ----------
    figure : Figure
    history : sequence of float
        Earlier values; the scatter is 1.4826 times the median distance from their median.
    scatter : float
        Scatter inside of one earlier value, where these are medians of a night themselves; added in quadrature.

    Returns
    -------
    Band
        NaN ends with fewer than `LEAST_HISTORY` values.
    """
    values = np.asarray(history, float)
    values = values[np.isfinite(values)]
    if len(values) < LEAST_HISTORY:
        return Band(np.nan, np.nan)
    middle = float(np.median(values))
    width = float(np.hypot(1.4826 * np.median(np.abs(values - middle)), scatter))
    reach = figure.sigmas * max(width, figure.floor)
    return Band(middle - reach, middle + reach)
