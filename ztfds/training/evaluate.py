"""How good scores are: error rates, reliability and false candidates per quadrant, with errors from night to night."""

from __future__ import annotations

from typing import Any

import numpy as np

from ztfds.training.labels import KINDS

FULL_MPX = 3080 * 3072 / 1e6
FALSE_POSITIVES, COMPLETENESS = 0.02, 0.99
N_RESAMPLED, N_BINS = 200, 10


def threshold_of_false_positives(scores: np.ndarray, real: np.ndarray, share: float = FALSE_POSITIVES) -> float:
    """Score that this share of the bogus candidates exceeds."""
    return float(np.quantile(scores[~real], 1 - share, method="higher"))


def false_negatives(scores: np.ndarray, real: np.ndarray, share: float = FALSE_POSITIVES) -> float:
    """Share of the real candidates that do not exceed the score which `share` of the bogus ones exceed."""
    return float(np.mean(scores[real] <= threshold_of_false_positives(scores, real, share)))


def area_under_curve(scores: np.ndarray, real: np.ndarray) -> float:
    """Probability that a real candidate scores above a bogus one; ties count half."""
    order = np.unique(scores, return_inverse=True)[1]
    counts = np.bincount(order)
    rank = (np.cumsum(counts) - 0.5 * (counts - 1))[order]
    n, m = int(real.sum()), int((~real).sum())
    return float((rank[real].sum() - n * (n + 1) / 2) / (n * m))


def scatter(scores: np.ndarray, real: np.ndarray, nights: np.ndarray, share: float = FALSE_POSITIVES) -> float:
    """Standard error of `false_negatives`: scenes drawn with replacement, because candidates of one scene resemble each other."""
    rng, names = np.random.default_rng(404), np.unique(nights)
    if len(names) < 2:
        return float("nan")
    rows = [np.flatnonzero(nights == name) for name in names]
    found = []
    for _ in range(N_RESAMPLED):
        drawn = np.concatenate([rows[k] for k in rng.integers(len(names), size=len(names))])
        if real[drawn].any() and not real[drawn].all():
            found.append(false_negatives(scores[drawn], real[drawn], share))
    return float(np.std(found)) if found else float("nan")


def reliability(scores: np.ndarray, real: np.ndarray) -> list[dict[str, float]]:
    """Mean score and share of real ones in bins of the score, with real and bogus candidates weighted to equal sums."""
    weights = np.where(real, 0.5 / max(real.sum(), 1), 0.5 / max((~real).sum(), 1))
    which = np.clip((scores * N_BINS).astype(int), 0, N_BINS - 1)
    out = []
    for k in range(N_BINS):
        rows = which == k
        if rows.sum() < 5:
            continue
        w = weights[rows]
        share = float(np.sum(w * real[rows]) / w.sum())
        error = float(np.sqrt(max(share * (1 - share), 0.01) * np.sum(w**2)) / w.sum())
        out.append(
            {"score": float(np.sum(w * scores[rows]) / w.sum()), "real": share, "error": error, "n": int(rows.sum())}
        )
    return out


def summary(scores: np.ndarray, meta: np.ndarray) -> dict[str, Any]:
    """Figures of merit of one score on one set of candidates.

    Parameters
    ----------
    scores : (n,) float
    meta : structured array (`samples.META`)

    Returns
    -------
    dict
        Counts; area under the curve; false negatives at 2 % false positives with their standard error; shares of each kind above
        that threshold.
    """
    real = meta["label"] == 1
    out: dict[str, Any] = {"n_real": int(real.sum()), "n_bogus": int((~real).sum())}
    if not real.any() or real.all():
        return out
    threshold = threshold_of_false_positives(scores, real)
    out["auc"] = area_under_curve(scores, real)
    out["false_negatives"], error = false_negatives(scores, real), scatter(scores, real, meta["seed"])
    out["error"] = error if np.isfinite(error) else None
    out["threshold"] = threshold
    out["above"] = {
        KINDS[k]: [int((scores[meta["kind"] == k] > threshold).sum()), int((meta["kind"] == k).sum())]
        for k in np.unique(meta["kind"])
    }
    return out


def false_per_quadrant(scores: np.ndarray, meta: np.ndarray, mpx: float) -> dict[str, float]:
    """Bogus candidates per full quadrant before and after the cut that keeps 99 % of the real ones.

    Parameters
    ----------
    scores : (n,) float
    meta : structured array
        Of differences that were searched without any alteration.
    mpx : float
        Area that was searched, 1e6 pixels.
    """
    real = meta["label"] == 1
    if not real.any() or not mpx:
        return {}
    cut = float(np.quantile(scores[real], 1 - COMPLETENESS, method="lower"))
    unit = FULL_MPX / mpx
    after = int((scores[~real] >= cut).sum())
    return {
        "before": float((~real).sum() * unit),
        "after": after * unit,
        "error": float(np.sqrt(after + 0.25) * unit),
        "cut": cut,
        "n_real": int(real.sum()),
        "quadrants": mpx / FULL_MPX,
    }


def balanced(meta: np.ndarray) -> np.ndarray:
    """Weights with which real and bogus candidates sum alike and, within either, kinds count as the root of their number."""
    weights = np.zeros(len(meta))
    for value in (0, 1):
        rows = meta["label"] == value
        counts = np.bincount(meta["kind"][rows], minlength=len(KINDS))
        weights[rows] = 1 / np.sqrt(np.maximum(counts, 1))[meta["kind"][rows]]
        if rows.any():
            weights[rows] *= 0.5 * len(meta) / weights[rows].sum()
    return weights
