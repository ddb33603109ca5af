"""A readout channel against its own history: which of its figures departed, by robust statistics of the last good ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ztfds.config.detrend import QualityConfig, QualityRule


@dataclass(frozen=True)
class Departure:
    """One figure that is not what it used to be.

    Attributes
    ----------
    rule : QualityRule
        Name and bit.
    value, median, limit : float
        The figure, the median of the history, and how far from it the figure may be; unit of the figure.
    """

    rule: QualityRule
    value: float
    median: float
    limit: float

    def __str__(self) -> str:
        return (
            f"{self.rule.name}: {self.rule.metric} is {self.value:.4g}, usually {self.median:.4g} +- {self.limit:.3g}"
        )


def judge(
    figures: Mapping[str, float],
    history: Sequence[Mapping[str, float | None]],
    rules: Iterable[QualityRule],
    config: QualityConfig,
) -> list[Departure]:
    """Figures that depart from the median of the history by more than `limit_sigma` robust sigmas and more than their floor.

    Parameters
    ----------
    figures : mapping of str to float
        Metrics of one quadrant; one that is absent or not finite is not judged.
    history : sequence of mappings
        The same metrics of the last good ones of the same channel, in any order; None or absent where unknown.
    rules : iterable of QualityRule
    config : QualityConfig
        How many are a history, and the limit.

    Returns
    -------
    list of Departure
        In the order of the rules; empty while there is too little history.
    """
    found = (_departure(rule, figures, history, config) for rule in rules)
    return [departure for departure in found if departure is not None]


def flags(departures: Iterable[Departure]) -> int:
    """Bit string of the rules that were broken."""
    return sum({1 << departure.rule.bit for departure in departures})


def _departure(
    rule: QualityRule,
    figures: Mapping[str, float],
    history: Sequence[Mapping[str, float | None]],
    config: QualityConfig,
) -> Departure | None:
    """One rule, if it is broken."""
    value = figures.get(rule.metric, math.nan)
    known = np.array([v for row in history if (v := row.get(rule.metric)) is not None and math.isfinite(v)])
    if not math.isfinite(value) or known.size < config.least:
        return None
    median = float(np.median(known))
    spread = 1.4826 * float(np.median(np.abs(known - median)))
    limit = max(config.limit_sigma * spread, rule.floor * (abs(median) if rule.relative else 1.0))
    distance = value - median
    far = distance > limit if rule.upwards else abs(distance) > limit
    return Departure(rule, value, median, limit) if far else None
