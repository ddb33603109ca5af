"""Small plots as SVG paths: many points in few bytes, one colour for each filter, the band of what is expected behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FILTER_COLOURS = {1: "#2e9e5b", 2: "#c8452f", 3: "#8a5a2b"}
"""Colours of g, r and i, to be told apart on light and dark paper."""
WIDTH, HEIGHT = 520, 130


@dataclass
class Series:
    """Values of one filter.

    Attributes
    ----------
    fid : int
    x, y : list of float
        Places and values.
    low, high : list of float
        Ends of the line through each point; empty: none.
    band : tuple of float, optional
        Lower and upper end of what is expected.
    marked : list of dict
        Points that are drawn large and can be clicked: ``x y href note``.
    """

    fid: int
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    band: tuple[float, float] | None = None
    marked: list[dict[str, Any]] = field(default_factory=list)


def draw(series: Sequence[Series], span: tuple[float, float], digits: int = 2) -> dict[str, Any] | None:
    """Geometry of a plot of values over time.

    Parameters
    ----------
    series : sequence of Series
    span : tuple of float
        Ends of the horizontal axis.
    digits : int
        Digits after the point of the labels.

    Returns
    -------
    dict or None
        ``width height low high`` (labels of the axis) and ``parts``: for each filter ``colour points lines band marked`` with SVG
        paths; None without a finite value.
    """
    ends = _axis(series)
    if ends is None:
        return None
    low, high = ends
    wide = (span[1] - span[0]) or 1.0

    def at(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        inside = np.clip(np.asarray(y, float), low, high)
        across = 4 + (WIDTH - 8) * (np.asarray(x, float) - span[0]) / wide
        return np.round(across, 1), np.round(4 + (HEIGHT - 8) * (high - inside) / (high - low), 1)

    parts = [_part(one, at) for one in series]
    return {"width": WIDTH, "height": HEIGHT, "low": f"{low:.{digits}f}", "high": f"{high:.{digits}f}", "parts": parts}


def _axis(series: Sequence[Series]) -> tuple[float, float] | None:
    """Ends of the vertical axis: the middle 98 % of all values with room for marked ones."""
    values = np.array([v for one in series for v in (*one.y, *one.low, *one.high)], float)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    ends = [*np.percentile(values, (1, 99)).tolist(), *(point["y"] for one in series for point in one.marked)]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _part(one: Series, at: Any) -> dict[str, Any]:
    """The paths of one filter."""
    band = None
    if one.band and math.isfinite(sum(one.band)):
        bottom, top = at(0.0, one.band)[1].tolist()
        band = {"y": top, "height": max(0.5, round(bottom - top, 1))}
    x, y = (values.tolist() for values in at(one.x, one.y))
    ends = [at(one.x, values)[1].tolist() for values in (one.low, one.high)] if one.low else [[], []]
    return {
        "colour": FILTER_COLOURS.get(one.fid, "#5c6878"),
        "points": "".join([f"M{a:g} {b:g}h0" for a, b in zip(x, y, strict=True) if b == b]),
        "lines": "".join([f"M{a:g} {b:g}V{c:g}" for a, b, c in zip(x, *ends, strict=False) if b == b and c == c]),
        "band": band,
        "marked": [{**point, "at": [float(v) for v in at(point["x"], point["y"])]} for point in one.marked],
    }


def by_filter(rows: Sequence[Mapping[str, Any]], x: str, y: str = "median", ends: bool = True) -> list[Series]:
    """Rows with ``fid``, a place and a value (and ``low``, ``high``) as one series for each filter."""
    found: dict[int, Series] = {}
    for row in rows:
        if row[y] is None:
            continue
        one = found.setdefault(row["fid"], Series(row["fid"]))
        one.x.append(row[x])
        one.y.append(row[y])
        if ends:
            one.low.append(row["low"])
            one.high.append(row["high"])
    return [found[fid] for fid in sorted(found)]
