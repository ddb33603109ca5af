"""Which images make a reference: declared quality cuts, then the sharpest few."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ztfds.config.difference import ReferenceConfig

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

    Candidates of one field, readout channel and filter are cut by STATUS, date, seeing, zero point (against the
    candidates' median), colour coefficient (likewise), calibration scatter, limiting magnitude, sky, noise and
    astrometric residuals; a keyword that is absent is not judged, except SEEING and MAGZP, which are needed. The
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
    rejected = {k: reason for k in range(len(candidates)) if (reason := _judge(table, k, config))}
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


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def _judge(table: dict[str, np.ndarray], k: int, config: ReferenceConfig) -> str:
    """Why candidate k is no input; empty when it may be one. A NaN fails no comparison."""
    v = {name: float(values[k]) for name, values in table.items()}
    zeropoint = abs(v["MAGZP"] - _median(table["MAGZP"]))
    colour = abs(v["CLRCOEFF"] - _median(table["CLRCOEFF"]))
    astrometry = 3600 * float(np.fmax(v["ASTRRMS1"], v["ASTRRMS2"]))
    rules = (
        (v["STATUS"] == 0, "not usable (STATUS 0)"),
        (math.isnan(v["SEEING"]) or math.isnan(v["MAGZP"]), "no seeing or no zero point"),
        (v["OBSJD"] < config.first_jd, f"JD {v['OBSJD']:.2f} is before {config.first_jd}"),
        (v["SEEING"] > config.max_seeing_px, f"seeing {v['SEEING']:.2f} px"),
        (v["MAGLIM"] < config.min_maglim, f"limiting magnitude {v['MAGLIM']:.2f}"),
        (v["MAGZPRMS"] > config.max_zeropoint_rms, f"calibration scatter {v['MAGZPRMS']:.3f} mag"),
        (zeropoint > config.max_zeropoint_deviation, f"zero point {v['MAGZP']:.2f} is {zeropoint:.2f} mag off"),
        (colour > config.max_colour_deviation, f"colour coefficient {v['CLRCOEFF']:.2f} is {colour:.2f} off"),
        (v["MEDSKY"] > config.max_background_dn, f"sky {v['MEDSKY']:.0f} DN"),
        (v["SKYSIG"] > config.max_noise_dn, f"noise {v['SKYSIG']:.1f} DN"),
        (astrometry > config.max_astrometric_rms_arcsec, f"astrometric scatter {astrometry:.2f} arcsec"),
    )
    return next((text for broken, text in rules if broken), "")
