"""Whether a new set of orbits or observatories may take over: count, age, parse, and comparison with the one in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np

from ztfds.config.solarsystem import RefreshConfig
from ztfds.solarsystem.mpc import Parsed
from ztfds.solarsystem.night import carry
from ztfds.solarsystem.planets import Site

WELL_KNOWN = 4
"""Uncertainty code up to which an orbit must not jump."""
_FEW_BAD = 5
_MOVED_SITE = 2e-4  # equatorial radii: 1.3 km


@dataclass(frozen=True)
class Judgement:
    """What was found of a set.

    Attributes
    ----------
    reason : str
        Why it is refused; empty for a good one.
    figures : dict
        What was measured.
    data_date : date or None
        Night of the newest observation.
    """

    reason: str
    figures: dict[str, float] = field(default_factory=dict)
    data_date: date | None = None


def newest_observation(orbits: np.ndarray) -> date | None:
    """Date of the newest observation that orbits rest on; None if none says so. Numbers that are no dates do not count."""
    year, month, day = orbits["last"] // 10000, orbits["last"] // 100 % 100, orbits["last"] % 100
    dates = (year > 1800) & (year < 2100) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    last = int(np.max(orbits["last"][dates], initial=0))
    try:
        return date(last // 10000, last // 100 % 100, last % 100)
    except ValueError:
        return None


def judge_orbits(
    kind: str, new: Parsed, old: np.ndarray | None, today: date, tt: float, config: RefreshConfig
) -> Judgement:
    """Judge a set of orbits against declared limits.

    Parameters
    ----------
    kind : {'mpcorb', 'comets'}
    new : Parsed
    old : (n,) array of `ORBIT` or None
        The set in use.
    today : date
        Date that ages are counted to.
    tt : float
        JD, TT, at which places are compared.
    config : RefreshConfig

    Returns
    -------
    Judgement
    """
    newest = newest_observation(new.orbits)
    figures: dict[str, float] = {"records": float(len(new.orbits)), "bad_lines": float(new.bad)}
    reason = _count(kind, len(new.orbits), new.bad, None if old is None else len(old), config)
    if newest:
        figures["age_d"] = float((today - newest).days)
    if not reason and kind == "mpcorb":
        reason = _age(newest, old, today, config)
    if not reason and old is not None:
        common, moved, shift = compare(new.orbits, old, tt, config)
        figures |= {"compared": float(common), "moved": float(moved), "median_shift_arcsec": shift}
        if moved > config.max_moved_fraction * common:
            reason = f"{moved} of {common} well-known orbits moved by more than {config.moved_arcsec:.0f} arcsec against the set in use"
    return Judgement(reason, figures, newest)


def _count(kind: str, n: int, bad: int, before: int | None, config: RefreshConfig) -> str:
    """What is wrong with the number of records."""
    if bad > max(_FEW_BAD, config.max_bad_fraction * (n + bad)):
        return f"{bad} of {n + bad} lines cannot be read, at most {config.max_bad_fraction:.1%} may"
    if n < config.min_records.get(kind, 1):
        return f"{n} records, at least {config.min_records[kind]} are wanted"
    if before and n < before * (1 - config.max_shrink):
        return f"{n} records after {before}: a loss of more than {config.max_shrink:.0%}"
    if before and n > before * (1 + config.max_growth):
        return f"{n} records after {before}: a gain of more than {config.max_growth:.0%}"
    return ""


def _age(newest: date | None, old: np.ndarray | None, today: date, config: RefreshConfig) -> str:
    """What is wrong with the age of the newest observation."""
    if newest is None:
        return "no date of a last observation can be read"
    if today - newest > timedelta(days=config.max_age_d):
        return (
            f"its newest observation is of {newest}, {(today - newest).days} d ago: more than {config.max_age_d:.0f} d"
        )
    before = newest_observation(old) if old is not None else None
    if before and newest < before:
        return f"its newest observation is of {newest}, that of the set in use of {before}: it is older"
    return ""


def compare(new: np.ndarray, old: np.ndarray, tt: float, config: RefreshConfig) -> tuple[int, int, float]:
    """How far orbits that both sets have differ in heliocentric direction, at a time and some weeks after it.

    Returns
    -------
    common, moved : int
        Compared orbits (well-known ones, evenly spread over the list), and those beyond the limit.
    median : float
        Median change, arcsec.
    """
    _, i, j = np.intersect1d(new["name"], old["name"], assume_unique=True, return_indices=True)
    well = (new["u"][i] <= WELL_KNOWN) & (old["u"][j] <= WELL_KNOWN)
    i, j = i[well], j[well]
    chosen = np.linspace(0, i.size - 1, min(i.size, config.compared)).astype(int)
    if not chosen.size:
        return 0, 0, 0.0
    a, b = (_directions(set_[k], tt, config.compared_after_d) for set_, k in ((new, i[chosen]), (old, j[chosen])))
    shift = np.degrees(np.linalg.norm(a - b, axis=2).max(axis=0)) * 3600.0
    return int(chosen.size), int(np.count_nonzero(~(shift <= config.moved_arcsec))), float(np.median(shift))


def _directions(orbits: np.ndarray, tt: float, after: float) -> np.ndarray:
    """Heliocentric unit vectors, (2, n, 3), at a time and some days after it, by which a wrong period shows."""
    first, _ = carry(orbits["state"], orbits["epoch"], tt)
    then, _ = carry(first, np.full(len(orbits), tt), tt + after)
    places = np.stack([first[:, :3], then[:, :3]])
    return np.asarray(places / np.linalg.norm(places, axis=2, keepdims=True))


def judge_sites(
    new: Mapping[str, Site], old: Mapping[str, Site] | None, needed: str, config: RefreshConfig
) -> Judgement:
    """Judge a list of observatories: the one needed is there, and places known before have not moved."""
    figures = {"records": float(len(new))}
    reason = _count("obscodes", len(new), 0, len(old) if old is not None else None, config)
    if not reason and needed not in new:
        reason = f"the observatory {needed} is not in it"
    if not reason and old is not None:
        common = [code for code in new if code in old]
        moved = [code for code in common if _apart(new[code], old[code]) > _MOVED_SITE]
        figures |= {"compared": float(len(common)), "moved": float(len(moved))}
        if needed in moved or len(moved) > config.max_moved_fraction * len(common):
            reason = (
                f"{len(moved)} of {len(common)} observatories moved by more than a kilometre ({', '.join(moved[:5])})"
            )
    return Judgement(reason, figures)


def _apart(a: Site, b: Site) -> float:
    """Distance of two places on the Earth, equatorial radii."""
    vectors = []
    for site in (a, b):
        angle = np.radians(site.longitude_deg)
        vectors.append(np.array([site.rho_cos * np.cos(angle), site.rho_cos * np.sin(angle), site.rho_sin]))
    return float(np.linalg.norm(vectors[0] - vectors[1]))
