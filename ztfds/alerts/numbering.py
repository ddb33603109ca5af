"""Which number a candidate gets: that of the same detection in an earlier version of its difference image, else an unused one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ztfds.survey import ids


@dataclass(frozen=True)
class Earlier:
    """A number that was given before in the same quadrant of the same exposure.

    Attributes
    ----------
    candid : int
    positive : bool
        Whether it brightened.
    x, y : float
        Where it was measured last, 0-based pixels; NaN where nothing is known but the number (it is never inherited then).
    alerted : bool
        Whether a packet was made of it.
    served : bool
        Whether it is among the candidates of the version that is served now.
    """

    candid: int
    positive: bool
    x: float
    y: float
    alerted: bool
    served: bool


def assign(
    positive: Sequence[bool],
    x: np.ndarray,
    y: np.ndarray,
    earlier: Iterable[Earlier],
    pid: int,
    version: int,
    radius_px: float,
) -> list[int]:
    """Number the candidates of a difference image.

    Pairs of one sign within the radius are taken from the nearest on (of equally near ones the smaller number first), each number
    and each candidate once: the same detection keeps its number, whatever its rank. Numbers that are served come before those of
    replaced candidates, these by processing version from the highest on. Numbers of versions below `version` are not inherited:
    with a higher one a published night gets new ones on purpose. What finds no partner gets its rank, or, if that was ever given
    in this version and sign, the smallest number that was not.

    Parameters
    ----------
    positive : sequence of n bool
        Sign of each candidate, strongest first.
    x, y : (n,) float64
        0-based pixels: positions on the detector, which a new astrometric solution does not move.
    earlier : iterable of Earlier
        All numbers that were ever given in this quadrant, in any order.
    pid : int
    version : int
        Processing version of new numbers.
    radius_px : float

    Returns
    -------
    list of n int
        candid of each candidate; all different.

    Raises
    ------
    BadName
        More than 5000 numbers of one sign.
    """
    known = sorted(earlier, key=lambda e: e.candid)
    groups: dict[tuple[bool, int], list[Earlier]] = {}
    for e in known:
        if (given := ids.split_candid(e.candid)[1]) >= version:
            groups.setdefault((e.served, given), []).append(e)
    found: dict[int, int] = {}
    for key in sorted(groups, reverse=True):
        _inherit(found, positive, x, y, groups[key], radius_px)
    used = {ids.split_candid(e.candid)[1:] for e in known}
    numbers = []
    for row, sign in enumerate(positive):
        if row not in found:
            tblid = row
            if (version, bool(sign), tblid) in used:
                tblid = next(k for k in range(len(used) + 1) if (version, bool(sign), k) not in used)
            used.add((version, bool(sign), tblid))
            found[row] = ids.candid(pid, bool(sign), tblid, version)
        numbers.append(found[row])
    return numbers


def _inherit(
    found: dict[int, int],
    positive: Sequence[bool],
    x: np.ndarray,
    y: np.ndarray,
    known: Sequence[Earlier],
    radius_px: float,
) -> None:
    """Add to the candids by row those that rows without one inherit."""
    apart = np.hypot(
        np.asarray(x, float)[:, None] - [e.x for e in known], np.asarray(y, float)[:, None] - [e.y for e in known]
    )
    same = np.asarray(positive, bool)[:, None] == [e.positive for e in known]
    rows, columns = np.nonzero(same & (apart <= radius_px))  # NaN is not
    taken: set[int] = set()
    for k in np.lexsort((rows, columns, apart[rows, columns])):
        row, column = int(rows[k]), int(columns[k])
        if row not in found and column not in taken:
            found[row] = known[column].candid
            taken.add(column)


def merged(entries: Iterable[Earlier]) -> list[Earlier]:
    """One entry for each number: that which is served, else the first that has a position; alerted if any of them was."""
    best: dict[int, Earlier] = {}
    alerted: dict[int, bool] = {}
    for entry in entries:
        alerted[entry.candid] = alerted.get(entry.candid, False) or entry.alerted
        kept = best.get(entry.candid)
        if kept is None or (entry.served, not math.isnan(entry.x)) > (kept.served, not math.isnan(kept.x)):
            best[entry.candid] = entry
    return [Earlier(e.candid, e.positive, e.x, e.y, alerted[e.candid], e.served) for _, e in sorted(best.items())]
