"""Which candidates are real, by the truth of the simulation, and of which kind each of them is."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from ztfds.reference.grid import wcs_of
from ztfds.training.scenes import Pair

REAL, BOGUS, UNCLEAR = 1, 0, -1
MATCH_PX, UNCLEAR_PX, BRIGHT_UNCLEAR_PX = 2.0, 4.0, 8.0
BRIGHT_SNR = 100.0
LEAST_SNR = 3.0
"""A true change below this many sigmas of the measured flux is neither real nor bogus."""
TRAIL_PX, HIT_PX, STREAK_PX = 8.0, 3.0, 8.0
STAR_PX, STAR_SNR = 2.5, 20.0
BRIGHT_STAR_MAG, LARGEST_REACH_PX = 15.0, 150.0

KINDS = (
    "blank sky", "on galaxy", "variable", "asteroid",
    "hit", "trail", "defect", "bright star", "star", "galaxy", "noise", "unclear",
)  # fmt: skip
"""Kinds of candidates; the first four are real."""

EVENT = np.dtype([("x", "f8"), ("y", "f8"), ("change", "f8"), ("kind", "i1")])


def label(pair: Pair, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label candidates.

    Real: within 2 px of a transient, variable or asteroid whose true flux changed by at least 3 sigma of the candidate's flux in
    the candidate's direction. Unclear (left out): near a smaller or opposite change, near one that is real, on a moving object of
    a reference image or on the streak of a fast mover. Everything else is bogus.

    Parameters
    ----------
    pair : Pair
    table : candidate table

    Returns
    -------
    labels : (n,) int8
        1 real, 0 bogus, -1 unclear.
    kinds : (n,) int8
        Index into `KINDS`.
    """
    labels, kinds = np.full(len(table), BOGUS, np.int8), _bogus_kinds(pair, table)
    events = true_changes(pair)
    unclear = _near_moving(pair, table)
    if len(events) and len(table):
        tree = cKDTree(np.column_stack([events["x"], events["y"]]))
        for i, row in enumerate(table):
            found = events[tree.query_ball_point([row["x"], row["y"]], BRIGHT_UNCLEAR_PX)]
            verdict, kind = _judge(row, found)
            if verdict == REAL:
                labels[i], kinds[i], unclear[i] = REAL, kind, False
            unclear[i] |= verdict == UNCLEAR
    labels[unclear], kinds[unclear] = UNCLEAR, KINDS.index("unclear")
    return labels, kinds


def _judge(row: np.void, events: np.ndarray) -> tuple[int, int]:
    """Label and kind of a candidate among the true changes around it."""
    if not len(events):
        return BOGUS, 0
    apart = np.hypot(events["x"] - row["x"], events["y"] - row["y"])
    snr = events["change"] * np.sign(row["flux"]) / row["fluxunc"]
    matching = (apart <= MATCH_PX) & (snr >= LEAST_SNR)
    if matching.any():
        best = int(np.argmax(np.where(matching, snr, -np.inf)))
        return REAL, int(events["kind"][best])
    reach = np.where(np.abs(snr) > BRIGHT_SNR, BRIGHT_UNCLEAR_PX, UNCLEAR_PX)
    near = (apart <= reach) & ((np.abs(snr) >= LEAST_SNR) | (apart <= MATCH_PX) & (np.abs(snr) >= 1.0))
    return (UNCLEAR if near.any() else BOGUS), 0


def true_changes(pair: Pair) -> np.ndarray:
    """Flux of the science image minus that of the reference's mean, DN of the science image, of all that change or move.

    Returns
    -------
    structured array (`EVENT`)
    """
    truth = pair.epoch.truth
    stars = truth[truth["kind"] == "star"]
    unit = float(np.median(stars["flux"] * 10 ** (0.4 * stars["mag"].astype(float))))
    parts = [_changed(pair, kind, unit) for kind in ("transient", "variable")]
    moving = truth[truth["kind"] == "asteroid"]
    found = np.zeros(len(moving), EVENT)
    found["x"], found["y"], found["change"], found["kind"] = (
        moving["x"],
        moving["y"],
        moving["flux"],
        KINDS.index("asteroid"),
    )
    return np.concatenate([*parts, found])


def _changed(pair: Pair, kind: str, unit: float) -> np.ndarray:
    """True changes of one kind of fixed source, matched by number."""
    now = _of_kind(pair.epoch.truth, kind)
    past = np.concatenate([_of_kind(truth, kind) for truth in pair.reference_truth])
    every = np.concatenate([now, past])
    ids, first = np.unique(every["id"], return_index=True)
    before = np.zeros(ids.size)
    np.add.at(before, np.searchsorted(ids, past["id"]), unit * 10 ** (-0.4 * past["mag"]) / len(pair.reference_truth))
    after = np.zeros(ids.size)
    after[np.searchsorted(ids, now["id"])] = now["flux"]
    rows, out = every[first], np.zeros(ids.size, EVENT)
    out["change"] = after - before
    out["kind"] = KINDS.index("variable")
    if kind == "transient":
        out["kind"] = np.where(rows["on_galaxy"], KINDS.index("on galaxy"), KINDS.index("blank sky"))
    out["x"], out["y"] = wcs_of(pair.epoch.science.header).all_world2pix(rows["ra"], rows["dec"], 0)
    at = np.searchsorted(ids, now["id"])
    out["x"][at], out["y"][at] = now["x"], now["y"]
    return out


def _of_kind(truth: np.ndarray, kind: str) -> np.ndarray:
    return truth[truth["kind"] == kind]


def _near_moving(pair: Pair, table: np.ndarray) -> np.ndarray:
    """Whether a candidate lies on a fast mover's streak, or where something moved while the reference was taken."""
    near = _near_segments(table, _of_kind(pair.epoch.truth, "fast"), STREAK_PX)
    wcs = wcs_of(pair.epoch.science.header)
    for truth in pair.reference_truth:
        for kind in ("asteroid", "fast"):
            rows = _of_kind(truth, kind)
            if len(rows):
                x, y = wcs.all_world2pix(rows["ra"], rows["dec"], 0)
                near |= _near_points(table, x, y, STREAK_PX)
    return near


def _near_points(table: np.ndarray, x: np.ndarray, y: np.ndarray, reach: np.ndarray | float) -> np.ndarray:
    """Whether each candidate lies within reach (one number, or one for each point) of a point."""
    if not len(table) or not len(x):
        return np.zeros(len(table), bool)
    apart = np.hypot(table["x"][:, None] - np.asarray(x), table["y"][:, None] - np.asarray(y))
    return np.asarray((apart <= reach).any(axis=1))


def _near_segments(table: np.ndarray, rows: np.ndarray, reach: float) -> np.ndarray:
    """Whether each candidate lies within reach of a line from (x, y) to (x2, y2)."""
    near = np.zeros(len(table), bool)
    for row in rows:
        dx, dy = row["x2"] - row["x"], row["y2"] - row["y"]
        along = ((table["x"] - row["x"]) * dx + (table["y"] - row["y"]) * dy) / max(dx * dx + dy * dy, 1e-9)
        along = np.clip(along, 0, 1)
        near |= np.hypot(table["x"] - row["x"] - along * dx, table["y"] - row["y"] - along * dy) <= reach
    return near


def _bogus_kinds(pair: Pair, table: np.ndarray) -> np.ndarray:
    """What makes each candidate, were it bogus: the first cause that applies."""
    truth = pair.epoch.truth
    stars = truth[np.isin(truth["kind"], ("star", "variable"))]
    bright = stars[stars["mag"] < BRIGHT_STAR_MAG]
    reach = np.minimum(5.0 * 10 ** (0.25 * (BRIGHT_STAR_MAG - bright["mag"])), LARGEST_REACH_PX)
    good = stars[stars["snr"] > STAR_SNR]
    galaxies = _of_kind(truth, "galaxy")
    causes = {
        "hit": _near_segments(table, _of_kind(truth, "radiation"), HIT_PX),
        "trail": _near_segments(table, _of_kind(truth, "trail"), TRAIL_PX),
        "defect": np.array([pair.defects.near(row["x"], row["y"], 1) > 0 for row in table], bool),
        "bright star": _near_points(table, bright["x"], bright["y"], reach),
        "star": _near_points(table, good["x"], good["y"], STAR_PX),
        "galaxy": _near_points(table, galaxies["x"], galaxies["y"], STAR_PX),
    }
    kinds = np.full(len(table), KINDS.index("noise"), np.int8)
    for name, applies in reversed(causes.items()):
        kinds[applies] = KINDS.index(name)
    return kinds
