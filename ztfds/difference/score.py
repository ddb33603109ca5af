"""The rule-based real/bogus score rb: a documented, monotone product of simple features."""

from __future__ import annotations

import numpy as np

RB_VERSION = "rules_1"
"""Version of the rules, written to rbversion."""


def real_bogus(table: np.ndarray) -> np.ndarray:
    """Score between 0 (bogus) and 1 (real).

    The score is the product of six factors, each falling monotonically from 1 as its feature moves away from that of a
    clean point source; a null feature gives 1/2:

        nbad       1 / (1 + nbad / 2)
        nneg       ramp from 1 at 5 negative pixels to 0.2 at 15 (of 25)
        sumrat     ramp from 0.1 at 0.3 to 1 at 0.9
        magdiff    exp(-(max(|magdiff| - 2 sigma, 0) / 0.5)^2), sigma the error of magap
        elong      ramp from 1 at 1.3 to 0.3 at 2.2
        chipsf     1 / (1 + (max(chipsf - 2, 0) / 10))

    No feature knows the flux: a faint clean source and a bright clean one score alike.

    Parameters
    ----------
    table : structured array (`candidates.DTYPE`)

    Returns
    -------
    (n,) float32
    """
    excess = np.maximum(np.abs(table["magdiff"]) - 2 * table["sigmagap"], 0)
    factors = [
        1 / (1 + table["nbad"] / 2),
        np.interp(table["nneg"], (5, 15), (1.0, 0.2)),
        _ramp(table["sumrat"], (0.3, 0.9), (0.1, 1.0)),
        np.exp(-((excess / 0.5) ** 2)),
        _ramp(table["elong"], (1.3, 2.2), (1.0, 0.3)),
        1 / (1 + np.maximum(table["chipsf"] - 2, 0) / 10),
    ]
    score = np.ones(table.size)
    for factor in factors:
        score *= np.where(np.isfinite(factor), factor, 0.5)
    return np.clip(score, 0, 1).astype(np.float32)


def _ramp(value: np.ndarray, at: tuple[float, float], to: tuple[float, float]) -> np.ndarray:
    """Linear between two points, constant outside; NaN stays NaN."""
    return np.where(np.isfinite(value), np.interp(np.nan_to_num(value), at, to), np.nan)
