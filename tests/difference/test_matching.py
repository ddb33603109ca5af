"""Star selection, residual warp and scatter."""

from __future__ import annotations

import analytic_sky as sky
import numpy as np
import pytest

from ztfds.config.difference import DifferenceConfig
from ztfds.difference.matching import StarMatch, fit_warp, select_stars, without_movers

CONFIG = DifferenceConfig()


def stars(rng: np.random.Generator, n: int, shape: tuple[int, int], scatter: float, error: float) -> StarMatch:
    x, y = rng.uniform(0, shape[1], n), rng.uniform(0, shape[0], n)
    total = np.hypot(scatter, error)
    return StarMatch(
        x, y, np.full(n, 0.9), rng.normal(0, total, n), rng.normal(0, total, n), np.full(n, error), np.full(n, 0.02)
    )


def shifted(match: StarMatch, dx: np.ndarray, dy: np.ndarray) -> StarMatch:
    return StarMatch(match.x, match.y, match.ratio, match.dx + dx, match.dy + dy, match.error, match.ratio_error)


@pytest.mark.parametrize(("n", "terms"), [(8, 1), (30, 3), (100, 6)])
def test_order_follows_the_number_of_stars(rng: np.random.Generator, n: int, terms: int) -> None:
    warp = fit_warp(stars(rng, n, (1000, 900), 0.03, 0.02), (1000, 900), CONFIG)
    assert warp.coefficients.shape == (terms, 2)


def test_quadratic_warp_is_recovered(rng: np.random.Generator) -> None:
    shape = (1000, 900)
    match = stars(rng, 150, shape, 0.02, 0.02)
    u, v = 2 * match.x / 900 - 1, 2 * match.y / 1000 - 1
    match = shifted(match, 0.1 + 0.2 * u - 0.1 * u * v, -0.05 + 0.1 * v**2)
    warp = fit_warp(match, shape, CONFIG)
    assert warp.significance > 20
    dx, dy = warp.at(np.array([0.0, 450.0, 899.0]), np.array([0.0, 500.0, 0.0]), shape)
    np.testing.assert_allclose(dx, [-0.2, 0.1, 0.4], atol=0.03)
    np.testing.assert_allclose(dy, [0.05, -0.05, 0.05], atol=0.03)
    np.testing.assert_allclose(warp.scatter, 0.02, atol=0.01)


def test_no_warp_is_not_significant(rng: np.random.Generator) -> None:
    significances = [
        fit_warp(stars(rng, 80, (900, 900), 0.02, 0.03), (900, 900), CONFIG).significance for _ in range(20)
    ]
    assert np.max(significances) < CONFIG.warp_significance
    assert 0.5 < np.median(significances) < 1.6


def test_scatter_is_what_exceeds_the_noise(rng: np.random.Generator) -> None:
    scatter = np.mean(
        [fit_warp(stars(rng, 100, (900, 900), 0.05, 0.04), (900, 900), CONFIG).scatter for _ in range(10)]
    )
    assert scatter == pytest.approx(0.05, rel=0.12)


def test_moving_stars_do_not_pull(rng: np.random.Generator) -> None:
    match = stars(rng, 50, (900, 900), 0.01, 0.02)
    match.dx[:4] += 1.0
    warp = fit_warp(match, (900, 900), CONFIG)
    assert warp.size < 0.03
    assert warp.scatter[0] < 0.03


def test_too_few_stars_take_the_default() -> None:
    empty = np.zeros(0)
    warp = fit_warp(StarMatch(*[empty] * 7), (900, 900), CONFIG)
    assert warp.size == 0
    np.testing.assert_array_equal(warp.scatter, CONFIG.default_registration_px)


def test_selection_leaves_out_what_cannot_be_matched() -> None:
    shape = (400, 400)
    x = np.array([50.0, 100, 150, 200, 204, 250, 300, 350, 5])
    y = np.array([50.0, 100, 150, 200, 200, 250, 300, 350, 200])
    flux = np.array([5e4, 5e4, 5e4, 5e4, 4e4, 5e4, 2e7, 300, 5e4])
    cat = sky.catalog(sky.tan_wcs(shape), x, y, flux, 20.0)
    image, bad = np.full(shape, 150.0, np.float32), np.zeros(shape, bool)
    image[100, 100] = 45000  # near saturation
    bad[152, 148] = True  # a bad pixel on it
    # 3 and 4 are too close together, 6 too bright in magnitude, 7 too faint, 8 at the edge
    rows = select_stars(cat, image, bad, 48000.0, sky.MAGZP, CONFIG)
    assert sorted(cat["xpos"][rows]) == [50.0, 250.0]


def test_selection_is_spread_over_the_image(rng: np.random.Generator) -> None:
    shape = (800, 800)
    x = np.r_[rng.uniform(30, 200, 600), rng.uniform(30, 770, 100)]
    y = np.r_[rng.uniform(30, 200, 600), rng.uniform(30, 770, 100)]
    flux = np.r_[np.full(600, 6e4), np.full(100, 2e4)]
    cat = sky.catalog(sky.tan_wcs(shape), x, y, flux, 20.0)
    config = DifferenceConfig(max_stars=60, star_isolation_px=1.0)
    rows = select_stars(cat, np.zeros(shape, np.float32), np.zeros(shape, bool), 5e4, sky.MAGZP, config)
    assert rows.size == 60
    corner = (cat["xpos"][rows] < 200) & (cat["ypos"][rows] < 200)
    assert corner.mean() < 0.4


def test_a_star_that_moved_is_judged_by_the_others() -> None:
    """Four well measured stars, one of them off: it goes, and the scatter is that of the others."""
    dx, dy = np.array([0.35, 0.06, -0.08, 0.02]), np.array([0.12, -0.01, 0.06, -0.05])
    place, error = np.array([50.0, 100.0, 150.0, 200.0]), np.full(4, 0.01)
    match = without_movers(StarMatch(place, place, np.ones(4), dx, dy, error, error))
    assert list(match.dx) == [0.06, -0.08, 0.02]
    np.testing.assert_allclose(fit_warp(match, (256, 256), CONFIG).scatter, 0.06, atol=0.03)


def test_stars_that_agree_all_stay(rng: np.random.Generator) -> None:
    for n in (5, 8, 15):
        kept = [without_movers(stars(rng, n, (256, 256), 0.05, 0.02)).size for _ in range(10)]
        assert np.mean(kept) > 0.9 * n


def test_gain_in_spite_of_variables(rng: np.random.Generator) -> None:
    match = stars(rng, 40, (900, 900), 0.01, 0.01)
    match.ratio[:] = 0.9 * (1 + rng.normal(0, 0.02, 40))
    match.ratio[:4] *= 1.4
    assert match.gain == pytest.approx(0.9, rel=0.01)
