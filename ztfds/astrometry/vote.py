"""The first solution: which shift, rotation and parity of the header's WCS brings detections onto catalog stars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ztfds.astrometry.tpv import design, least_squares
from ztfds.config.astrometry import AstrometryConfig
from ztfds.kernels.match import match_mutual, vote_shift

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Relative half-diagonal per histogram bin: distortion and the rotation step smear a peak in proportion to the image.
_BINS_PER_RADIUS = 430.0
_SMALLEST_BIN_ARCSEC, _LARGEST_BIN_ARCSEC = 1.5, 5.0


@dataclass(frozen=True)
class Stars:
    """Points in the tangent plane about the header's image centre, brightest first.

    x, y : (n,) arcsec, East and North.
    """

    x: FloatArray
    y: FloatArray

    def __len__(self) -> int:
        return int(self.x.size)

    def brightest(self, n: int, skipped: int = 0) -> Stars:
        """The first n after some that are skipped."""
        return Stars(self.x[skipped : skipped + n], self.y[skipped : skipped + n])


@dataclass(frozen=True)
class Affine:
    """Correction of the header's linear WCS in its tangent plane.

    `matrix` (2, 2) and `shift` (2,) arcsec: a detection that the header puts at p lies at matrix @ p + shift.
    detection, star : (n,) pairs among the voters and their catalog stars, ranks in brightness; n_trials : hypotheses
    tried before this one was found.
    """

    matrix: FloatArray
    shift: FloatArray
    detection: IntArray
    star: IntArray
    n_trials: float

    @property
    def n_matched(self) -> int:
        """Number of pairs."""
        return int(self.detection.size)

    def apply(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Corrected positions (n, 2) arcsec."""
        return np.stack([x, y], axis=-1) @ self.matrix.T + self.shift

    def corners(self, radius_arcsec: float) -> FloatArray:
        """Corrected positions (4, 2) of four points on the axes, so far from the centre."""
        far = radius_arcsec * np.array([1.0, -1.0, 0.0, 0.0])
        return self.apply(far, far[::-1])


@dataclass(frozen=True)
class Search:
    """One set of hypotheses: (h, 4) matrices, the largest shift in arcsec, and whether there are a great many.

    Those rare, long searches ask only a third of the brightest voters: still enough for a peak, and a hopeless image costs
    a second.
    """

    matrices: FloatArray
    half_width: float
    long: bool = False


def bin_size(radius_arcsec: float) -> float:
    """Width of a histogram bin, arcsec, for an image of this half-diagonal."""
    return float(np.clip(radius_arcsec / _BINS_PER_RADIUS, _SMALLEST_BIN_ARCSEC, _LARGEST_BIN_ARCSEC))


def _matrices(angles: NDArray[np.floating], scales: FloatArray, parities: tuple[int, ...]) -> FloatArray:
    """Rows (a, b, c, d) of every scaled rotation, preceded by a mirror of x where parity is -1."""
    parity, scale, angle = (g.ravel() for g in np.meshgrid(np.asarray(parities, float), scales, angles, indexing="ij"))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.stack([cos * parity, -sin, sin * parity, cos], axis=-1)


def _steps(largest: float, step: float) -> FloatArray:
    """Symmetric steps from -largest to largest, zero among them, not wider than `step`."""
    n = int(np.ceil(largest / step)) if largest > 0 else 0
    return np.linspace(-largest, largest, 2 * n + 1)


def searches(radius_arcsec: float, config: AstrometryConfig) -> Iterator[Search]:
    """Sets of hypotheses from the likely to the strange; a later set is tried only when an earlier one gives nothing.

    1. the header with its pointing error and a small rotation; 2. a wrong scale too, and a larger pointing error;
    3. quarter turns and mirrors (a header of another orientation convention); 4. any rotation, both parities.
    The rotation step smears the corner by half a bin.
    """
    step = bin_size(radius_arcsec) / radius_arcsec
    small = _steps(float(np.radians(config.rotation_range_deg)), step)
    unit = np.ones(1)
    scales = 1.0 + _steps(config.scale_range, 2 * step)
    yield Search(_matrices(small, unit, (1,)), config.search_radius_arcsec)
    yield Search(_matrices(small, scales, (1,)), config.search_radius_arcsec)
    yield Search(_matrices(small, unit, (1,)), config.wide_radius_arcsec)
    if not config.search_all_orientations:
        return
    turns: FloatArray = (np.arange(4)[:, None] * (np.pi / 2) + small).ravel()
    yield Search(_matrices(turns, unit, (1, -1)), config.search_radius_arcsec, True)
    n_angles = int(np.ceil(2 * np.pi / step))
    around = np.arange(n_angles) * (2 * np.pi / n_angles)
    yield Search(_matrices(around, unit, (1, -1)), config.search_radius_arcsec, True)


def fit_affine(points: FloatArray, targets: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Least-squares affine transform with two rounds of clipping at 3 robust sigma.

    points, targets (n, 2), n >= 3. Returns (matrix (2, 2), shift (2,), residual lengths (n,)).
    """
    terms = design(points[:, 0], points[:, 1], 1)
    keep = np.ones(len(points), bool)
    for _ in range(3):
        coefficients = least_squares(terms, targets, keep.astype(np.float64))
        residual = np.hypot(*(targets - terms @ coefficients).T)
        # The median length of a two-dimensional Gaussian residual is 1.18 sigma.
        keep = residual <= 3.0 * max(1e-3, float(np.median(residual[keep])) / 1.18)
        if keep.sum() < 4:
            keep = np.ones(len(points), bool)
    return coefficients[1:].T, coefficients[0], residual


def refine(
    matrix: FloatArray, shift: FloatArray, detections: Stars, catalog: Stars, radii: tuple[float, ...]
) -> tuple[FloatArray, FloatArray, IntArray, IntArray] | None:
    """Match within shrinking radii (arcsec) and refit the affine transform.

    Returns matrix, shift and the pairs (detection, star); None when fewer than 5 pairs remain.
    """
    original = np.stack([detections.x, detections.y], axis=-1)
    for radius in radii:
        moved = original @ matrix.T + shift
        i, j, _ = match_mutual(moved[:, 0], moved[:, 1], catalog.x, catalog.y, radius)
        if len(i) < 5:
            return None
        targets = np.stack([catalog.x[j], catalog.y[j]], axis=-1)
        try:
            if len(i) < 12:
                # Few pairs: a scaled rotation has fewer ways to follow a chance pair.
                matrix, shift = _similarity(original[i], targets, matrix)
            else:
                matrix, shift, _ = fit_affine(original[i], targets)
        except np.linalg.LinAlgError:
            return None
    return matrix, shift, i.astype(np.int64), j.astype(np.int64)


def _similarity(points: FloatArray, targets: FloatArray, near: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least-squares shift, rotation and scale (4 unknowns), keeping the parity of `near`."""
    parity = np.sign(np.linalg.det(near))
    p, q = points - points.mean(axis=0), targets - targets.mean(axis=0)
    flipped = p * np.array([parity, 1.0])
    norm = (flipped**2).sum()
    if norm <= 0:
        raise np.linalg.LinAlgError("coincident points")
    a = (flipped * q).sum() / norm
    b = (flipped[:, 0] * q[:, 1] - flipped[:, 1] * q[:, 0]).sum() / norm
    matrix = np.array([[a, -b], [b, a]]) @ np.diag([parity, 1.0])
    return matrix, targets.mean(axis=0) - matrix @ points.mean(axis=0)


def ballots(search: Search, n_detections: int, n_depth: list[int], config: AstrometryConfig) -> list[tuple[int, int]]:
    """Who votes: pairs of (brighter detections that are skipped, number of brightest catalog stars).

    First the brightest detections, with catalogs of several depths; then, except in long searches, against a far deeper
    catalog, and fainter detections: for images whose brightest detections are no stars or stars that the catalog lacks.
    """
    plain = [(0, depth) for depth in n_depth]
    if search.long:
        return plain[:3]
    turns = [turn for turn in config.skipped_voters if n_detections >= (turn + 1) * config.n_vote]
    return plain + [(turn * config.n_vote, (turn + 1) * max(n_depth[:3])) for turn in turns]


def first_solutions(
    detections: Stars, catalog: Stars, n_depth: list[int], radius_arcsec: float, config: AstrometryConfig
) -> Iterator[Affine]:
    """Candidate solutions, most promising first, from ever wider searches; the caller stops at one that verifies.

    Parameters
    ----------
    detections, catalog : brightest first, finite.
    n_depth : numbers of brightest catalog stars to try.
    radius_arcsec : half-diagonal of the image.
    """
    trials = 0.0
    for search in searches(radius_arcsec, config):
        for skipped, depth in ballots(search, len(detections), n_depth, config):
            voters, references = detections.brightest(config.n_vote, skipped), catalog.brightest(depth)
            starts, tried = _peaks(search, voters, references, bin_size(radius_arcsec))
            trials += tried
            for matrix, shift in starts:
                width = bin_size(radius_arcsec)
                better = refine(matrix, shift, voters, references, (1.6 * width, 1.0 * width, 0.8 * width))
                if better is not None:
                    matrix, shift, i, j = better
                    yield Affine(matrix, shift, i + skipped, j, trials)


def _peaks(
    search: Search, voters: Stars, references: Stars, width: float
) -> tuple[list[tuple[FloatArray, FloatArray]], float]:
    """The three hypotheses (matrix, shift) with most votes, and how many were tried."""
    # Small samples keep all voters: their peaks have none to spare.
    asked = max(min(len(voters), 60), len(voters) // 3) if search.long else len(voters)
    some, few = voters.brightest(asked), references.brightest(len(references) * asked // len(voters))
    count, sx, sy = vote_shift(some.x, some.y, few.x, few.y, search.matrices, search.half_width, width)
    best = [h for h in np.argsort(-count, kind="stable")[:3] if count[h] >= 4]
    starts = [(search.matrices[h].reshape(2, 2), np.array([sx[h], sy[h]])) for h in best]
    return starts, len(count) * (search.half_width / width) ** 2
