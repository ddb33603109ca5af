"""Whether a solution is to be believed: match fraction, significance against chance, no part that contradicts it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ztfds.astrometry.fit import Catalog, Detections, Solution
from ztfds.astrometry.quality import cell_index
from ztfds.astrometry.vote import Affine, Stars, bin_size
from ztfds.config.astrometry import AstrometryConfig
from ztfds.kernels.match import match_mutual, match_nearest

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Pairs that the freedom of a linear fit can make by itself: six unknowns, two coordinates a pair.
_FREE_PAIRS = 3


@dataclass(frozen=True)
class Agreement:
    """How well points (detections) and stars (of the catalog, inside the image) that should find each other do so.

    n_points, n_stars, n_matched : numbers; point_fraction, star_fraction : matched fractions of either;
    log10_chance : log10 of the probability that chance did it; contradicted : see `contradicted_cell`.
    """

    n_points: int
    n_stars: int
    n_matched: int
    point_fraction: float
    star_fraction: float
    log10_chance: float
    contradicted: bool = False

    @property
    def match_fraction(self) -> float:
        """Matches over the smaller of the two numbers."""
        return self.n_matched / max(1, min(self.n_points, self.n_stars))

    def doubt(self, config: AstrometryConfig) -> str | None:
        """Why the agreement is not enough, in one line, or None."""
        expected = min(self.n_points, self.n_stars)
        if self.n_matched < config.min_matches:
            return f"{self.n_matched} matches, at least {config.min_matches} needed"
        if self.match_fraction < config.min_match_fraction:
            return f"{self.n_matched} of {expected} bright stars matched"
        if self.log10_chance > config.max_log10_chance:
            return f"{self.n_matched} of {expected} matches can be chance: probability 1e{self.log10_chance:.1f}"
        if self.contradicted:
            return "a part of the image has bright detections and bright stars that do not match"
        return None


@dataclass(frozen=True)
class Overlap:
    """Bright detections and bright stars of the same magnitudes: each should find the other.

    detections, stars : ranks in brightness, ascending.
    """

    detections: IntArray
    stars: IntArray


def overlap(affine: Affine, detections: Detections, catalog: Catalog, config: AstrometryConfig) -> Overlap:
    """Who should match, judged by the magnitudes that the pairs of a linear solution span (5th to 95th percentile).

    Saturated stars that only the catalog has, and artefacts brighter than any star, are left out of it on either side.
    """
    brightness = -2.5 * np.log10(detections.flux)
    low, high = np.percentile(catalog.mag[affine.star], (5, 95))
    zero = np.median(catalog.mag[affine.star] - brightness[affine.detection])
    expected = brightness + zero
    chosen = np.flatnonzero((expected >= low) & (expected <= high))[: config.n_vote]
    if len(chosen) == config.n_vote:
        high = min(high, expected[chosen[-1]])
    return Overlap(chosen, np.flatnonzero((catalog.mag >= low) & (catalog.mag <= high)))


def linear_agreement(moved: FloatArray, stars: Stars, image_radius_arcsec: float, n_trials: float) -> Agreement:
    """Agreement of the brightest detections, moved (n, 2) arcsec by a linear solution, with the brightest stars."""
    radius = 0.8 * bin_size(image_radius_arcsec)
    x, y = np.ascontiguousarray(moved[:, 0]), np.ascontiguousarray(moved[:, 1])
    n_matched = len(match_mutual(x, y, stars.x, stars.y, radius)[0])
    area = float(np.ptp(x) * np.ptp(y))
    p = chance_fraction(x, y, stars.x, stars.y, radius, area)
    chance = log10_chance(n_matched, len(x), p, n_trials)
    return Agreement(len(x), len(stars), n_matched, n_matched / max(1, len(x)), n_matched / max(1, len(stars)), chance)


def full_agreement(
    fitted: Solution,
    detections: Detections,
    catalog: Catalog,
    shape: tuple[int, int],
    n_trials: float,
    config: AstrometryConfig,
) -> Agreement:
    """Agreement of a final solution.

    Points are the detections of the last round with S/N >= `min_snr` that the catalog reaches and, if there are enough,
    are usable for the fit: pieces of a trail and radiation hits have no star to find. Stars are those inside the image and
    brighter than 95 % of the matched ones.
    """
    i, j = fitted.detection, fitted.star
    expected_mag = np.median(catalog.mag[j] + 2.5 * np.log10(detections.flux[i])) - 2.5 * np.log10(detections.flux)
    reached = max(np.percentile(catalog.mag[fitted.inside], 99) - 0.5, np.median(expected_mag[i]))
    tried = fitted.tried
    points = tried[(detections.snr[tried] >= config.min_snr) & (expected_mag[tried] <= reached)]
    if detections.usable[points].sum() >= config.min_final_matches:
        points = points[detections.usable[points]]
    chosen = np.flatnonzero(catalog.mag[fitted.inside] <= np.percentile(catalog.mag[j], 95))
    point_matched, star_matched = np.isin(points, i), np.isin(fitted.inside[chosen], j)
    model, plane = fitted.distortion, fitted.inside_plane[chosen]
    star_x, star_y = model.linear_pixels(plane)
    x, y = detections.x[points], detections.y[points]
    contradicted = contradicted_cell(
        cell_index(x, y, shape, config.qa_grid), point_matched,
        cell_index(star_x, star_y, shape, config.qa_grid), star_matched, config.qa_grid**2,
    )  # fmt: skip
    where, radius = model.plane(x, y), config.match_radius_arcsec / 3600
    area = shape[0] * shape[1] * abs(np.linalg.det(model.cd))
    p = chance_fraction(where[:, 0], where[:, 1], plane[:, 0], plane[:, 1], radius, float(area))
    chance = log10_chance(int(point_matched.sum()), len(points), p, n_trials)
    return Agreement(
        len(points), len(chosen), int(point_matched.sum()), float(point_matched.mean()), float(star_matched.mean()),
        chance, contradicted,
    )  # fmt: skip


def chance_fraction(x: FloatArray, y: FloatArray, rx: FloatArray, ry: FloatArray, radius: float, area: float) -> float:
    """Probability that a point has a reference within a radius by chance.

    The larger of the uniform expectation 1 - exp(-pi radius^2 m / area) and of what is counted (less 2 sigma) with the
    points moved by 6 to 14 radii in many directions: clusters, and rows of points along bad columns, are not uniform.

    x, y (n,) points (2000 first count), rx, ry (m,) references inside the area; radius and area in the same unit.
    """
    uniform = -np.expm1(-np.pi * radius**2 * len(rx) / max(area, radius**2))
    x, y = x[:2000], y[:2000]
    moves = int(np.clip(4000 // max(1, len(x)), 8, 64))
    hits = 0
    for step, angle in zip(radius * np.linspace(6, 14, moves), 2.4 * np.arange(moves), strict=True):
        found, _ = match_nearest(x + step * np.cos(angle), y + step * np.sin(angle), rx, ry, radius)
        hits += int((found >= 0).sum())
    counted = (hits - 2 * np.sqrt(hits)) / max(1, moves * len(x))
    return float(np.clip(max(uniform, counted), 1e-12, 1 - 1e-12))


def log10_chance(n_matched: int, n_tried: int, p: float, n_trials: float) -> float:
    """log10 of an upper bound of the probability that a wrong solution matches so many points.

    Each of n tried points matches by chance with probability p; at least m matches have probability at most
    exp(-n KL(m / n, p)) (Chernoff), with KL(a, p) = a ln(a / p) + (1 - a) ln((1 - a) / (1 - p)); times the number of
    hypotheses. The pairs that a linear fit can make by itself are discounted.
    """
    a = max(0, n_matched - _FREE_PAIRS) / max(1, n_tried)
    if a <= p:
        return 0.0
    tail = (1 - a) * np.log((1 - a) / (1 - p)) if a < 1 else 0.0
    return float(-n_tried * (a * np.log(a / p) + tail) / np.log(10) + np.log10(max(1.0, n_trials)))


def contradicted_cell(
    detection_cell: IntArray,
    detection_matched: NDArray[np.bool_],
    star_cell: IntArray,
    star_matched: NDArray[np.bool_],
    n_cells: int,
) -> bool:
    """Whether some cell has bright detections and bright catalog stars in number, and neither find each other.

    A solution that is right in one part of the image and wrong in another shows so. One side alone does not count: a
    dead or clouded part has no detections, an artefact no stars. Cells need 8 of both; poor is a third of what the better
    cells have (their 75th percentile).
    """

    def poor(cell: IntArray, matched: NDArray[np.bool_]) -> NDArray[np.bool_]:
        n = np.bincount(cell, minlength=n_cells)
        share = np.bincount(cell, weights=matched, minlength=n_cells) / np.maximum(n, 1)
        many = n >= 8
        return many & (share < np.percentile(share[many], 75) / 3) if many.any() else many

    return bool((poor(detection_cell, detection_matched) & poor(star_cell, star_matched)).any())
