"""The light of bright stars beyond the stamps of their PSFs, taken out of a difference."""

from __future__ import annotations

import numpy as np
import pytest

from ztfds.config.difference import DifferenceConfig
from ztfds.difference.bright import Stars, remove_halos

SIGMA, SIDE = 6.0, 500


def left_over(told: float, neighbours: int) -> list[float]:
    """Median per ring of what is left around the brightest star, whose catalog flux is wrong by a factor; noise of a pixel."""
    rng = np.random.default_rng(41)
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(70.0, 430.0, 4), np.linspace(70.0, 430.0, 4)))
    flux = np.concatenate([[2e6], rng.uniform(2e5, 5e5, 15)])
    j, i = np.mgrid[:SIDE, :SIDE]
    new = rng.normal(0, SIGMA, (SIDE, SIDE))
    for a, b, f in zip(x, y, flux, strict=True):
        r = np.maximum(np.hypot(j - b, i - a), 3.0)
        new += 2e-4 * f * rng.uniform(0.9, 1.1) * (r / 12.5) ** -3.5
    for a, b in rng.uniform(5, SIDE - 5, (neighbours, 2)):  # what is new there, or not subtracted well
        new += 300.0 * np.exp(-((j - b) ** 2 + (i - a) ** 2) / 4.0)
    image = new.astype(np.float32)
    stars = Stars(x, y, flux * np.concatenate([[told], np.ones(15)]))
    remove_halos(image, np.zeros_like(image), np.zeros(image.shape, bool), stars, SIGMA, DifferenceConfig())
    r = np.hypot(j - y[0], i - x[0])
    return [abs(float(np.median(image[(r > a) & (r < a + 5)]))) / SIGMA for a in (14, 20, 28, 40, 52)]


@pytest.mark.parametrize("told", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("neighbours", [0, 60])
def test_a_bright_star_whose_flux_is_unsure_leaves_no_halo(told: float, neighbours: int) -> None:
    """As flux times the mean profile its halo would be wrong by 0.4 to 0.7 of itself: 20 sigma of a pixel near the stamp's edge.

    There one percent is left of 45 sigma, which is the curvature within a ring.
    """
    rings = left_over(told, neighbours)
    assert rings[0] < 0.8 and max(rings[1:]) < 0.3
