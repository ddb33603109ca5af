"""Matching kernels against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from ztfds.kernels.match import contamination, match_mutual, match_nearest, vote_shift


def brute(x, y, rx, ry, radius):
    d = np.hypot(x[:, None] - rx, y[:, None] - ry)
    best = d.argmin(axis=1)
    distance = d[np.arange(len(x)), best]
    return np.where(distance <= radius, best, -1), np.where(distance <= radius, distance, np.inf)


@pytest.mark.parametrize(("n", "m", "radius"), [(300, 400, 0.3), (50, 3, 5.0), (500, 500, 0.01), (1, 1, 100.0)])
def test_nearest_is_the_brute_force_nearest(rng, n, m, radius):
    x, y, rx, ry = rng.normal(0, 3, n), rng.normal(0, 2, n), rng.normal(0, 3, m), rng.normal(0, 2, m)
    index, distance = match_nearest(x, y, rx, ry, radius)
    expected, d = brute(x, y, rx, ry, radius)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(distance, d)


def test_nearest_takes_nan_far_points_empty_lists_and_read_only_arrays():
    rx = np.array([0.0, 1.0])
    rx.setflags(write=False)
    index, distance = match_nearest([np.nan, 1e12, -1e12, 1.0], [0.0, 0.0, 0.0, 0.0], rx, [0.0, 0.0], 0.5)
    assert index.tolist() == [-1, -1, -1, 1]
    assert np.isinf(distance[:3]).all()
    assert match_nearest([0.0], [0.0], [], [], 1.0)[0].tolist() == [-1]
    assert match_nearest([], [], [0.0], [0.0], 1.0)[0].size == 0


def test_points_on_a_line_or_on_one_spot_do_not_exhaust_memory():
    x = np.linspace(0, 1e6, 1000)
    index, _ = match_nearest(x, np.zeros(1000), x, np.zeros(1000), 1e-9)
    np.testing.assert_array_equal(index, np.arange(1000))
    index, _ = match_nearest(np.ones(5), np.ones(5), np.ones(3), np.ones(3), 1e-9)
    assert (index >= 0).all()


def test_mutual_pairs_are_one_to_one(rng):
    x, y = rng.random(400), rng.random(400)
    rx, ry = rng.random(300), rng.random(300)
    i, j, distance = match_mutual(x, y, rx, ry, 0.05)
    assert len(set(i.tolist())) == len(i) and len(set(j.tolist())) == len(j) and len(i) > 100
    there, _ = brute(x, y, rx, ry, 0.05)
    back, _ = brute(rx, ry, x, y, 0.05)
    expected = [(k, there[k]) for k in range(400) if there[k] >= 0 and back[there[k]] == k]
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == expected
    np.testing.assert_allclose(distance, np.hypot(x[i] - rx[j], y[i] - ry[j]))


def test_contamination_sums_the_neighbours(rng):
    x, y, flux = rng.random(200), rng.random(200), rng.uniform(1, 9, 200)
    d = np.hypot(x[:, None] - x, y[:, None] - y)
    expected = np.where((d <= 0.1) & ~np.eye(200, dtype=bool), flux, 0).sum(axis=1) / flux
    np.testing.assert_allclose(contamination(x, y, flux, 0.1), expected)


def test_vote_finds_the_shift_of_the_right_hypothesis(rng):
    rx, ry = rng.uniform(0, 1000, 80), rng.uniform(0, 1000, 80)
    angle = np.radians(10)
    right = np.array([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)])
    inverse = np.linalg.inv(right.reshape(2, 2))
    x, y = inverse @ np.stack([rx - 31.0, ry + 17.0])
    matrices = np.stack([[1.0, 0, 0, 1.0], right, [0, -1.0, 1.0, 0]])
    count, shift_x, shift_y = vote_shift(x, y, rx, ry, matrices, 60.0, 3.0)
    assert count.argmax() == 1 and count[1] >= 80 > 2 * max(count[0], count[2])
    assert abs(shift_x[1] - 31.0) <= 3.0 and abs(shift_y[1] + 17.0) <= 3.0
