"""Which images make a reference: declared quality cuts, then the sharpest few."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ztfds.config.difference import ReferenceConfig
from ztfds.survey.limits import Limit, reference_limits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """Outcome of a selection.

    Attributes
    ----------
    chosen : tuple of int
        Positions of the chosen candidates in the given sequence, sharpest first; empty when there are too few.
    rejected : dict of int to str
        Why each other candidate is left out.
    reason : str
        Why nothing is chosen; empty when something is.
    """

    chosen: tuple[int, ...]
    rejected: dict[int, str]
    reason: str = ""


def _number(row: Mapping[str, Any], name: str) -> float:
    """A keyword of a header or a column of a row (any case) as a number; NaN where absent."""
    for key in (name, name.lower(), name.upper()):
        value = row.get(key)
        if value is not None and not isinstance(value, str):
            return float(value)
    return math.nan


def select(candidates: Sequence[Mapping[str, Any]], config: ReferenceConfig) -> Selection:
    """Choose the input images of a reference.

    Candidates of one field, readout channel and filter are cut by the rules of ``survey/data/reference_limits.csv``: STATUS,
    date, seeing, zero point (against the candidates' median), colour coefficient (likewise), calibration scatter, limiting
    magnitude, sky, noise and astrometric residuals; a keyword that is absent is not judged, except SEEING and MAGZP, which are needed. The
    survivors are sorted by ascending FWHM and the first `max_inputs` taken; fewer than `min_inputs` are no reference.

    Parameters
    ----------
    candidates : sequence of mappings
        Headers of science images, or rows with the same names in either case: SEEING (px), MAGZP, MAGZPRMS,
        CLRCOEFF, MAGLIM, OBSJD, STATUS, MEDSKY, SKYSIG (DN), ASTRRMS1, ASTRRMS2 (deg).
    config : ReferenceConfig

    Returns
    -------
    Selection
    """
    table = {name: np.array([_number(row, name) for row in candidates]) for name in _KEYWORDS}
    metrics = _metrics(table)
    rules = reference_limits("input", config.limits_version, config.overrides)
    rejected = {k: reason for k in range(len(candidates)) if (reason := _judge(metrics, k, rules))}
    good = [k for k in range(len(candidates)) if k not in rejected]
    good.sort(key=lambda k: (table["SEEING"][k], table["OBSJD"][k]))
    if len(good) < config.min_inputs:
        reason = f"{len(good)} of {len(candidates)} images are good enough, {config.min_inputs} are needed"
        log.info("no reference: %s", reason)
        return Selection((), rejected, reason)
    rejected |= dict.fromkeys(good[config.max_inputs :], "sharper images suffice")
    return Selection(tuple(good[: config.max_inputs]), rejected)


_KEYWORDS = (
    "SEEING", "MAGZP", "MAGZPRMS", "CLRCOEFF", "MAGLIM", "OBSJD", "STATUS", "MEDSKY", "SKYSIG", "ASTRRMS1", "ASTRRMS2",
)  # fmt: skip


def _metrics(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the rules judge, one value for each candidate; NaN where it is not known."""
    return {
        "usable": table["STATUS"],
        "seeing_px": table["SEEING"],
        "maglim_mag": table["MAGLIM"],
        "zeropoint_mag": table["MAGZP"],
        "zeropoint_rms_mag": table["MAGZPRMS"],
        "zeropoint_deviation_mag": np.abs(table["MAGZP"] - _median(table["MAGZP"])),
        "colour_deviation": np.abs(table["CLRCOEFF"] - _median(table["CLRCOEFF"])),
        "first_jd": table["OBSJD"],
        "sky_dn": table["MEDSKY"],
        "noise_dn": table["SKYSIG"],
        "astrometric_rms_arcsec": 3600 * np.fmax(table["ASTRRMS1"], table["ASTRRMS2"]),
    }


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def _judge(metrics: dict[str, np.ndarray], k: int, rules: Sequence[Limit]) -> str:
    """Why candidate k is no input; empty when it may be one."""
    if math.isnan(metrics["seeing_px"][k]) or math.isnan(metrics["zeropoint_mag"][k]):
        return "no seeing or no zero point"
    values = ((rule, float(metrics[rule.name][k])) for rule in rules)
    return next((rule.explained(value) for rule, value in values if rule.broken(value)), "")
