"""Line sums and trailed-PSF fits against brute force and known truth."""

from __future__ import annotations

import numpy as np
import pytest
import streak_scenes as scenes

from ztfds.config.streaks import StreakConfig
from ztfds.difference.streaksearch import find_lines
from ztfds.difference.subtract import OVERSAMPLING
from ztfds.kernels import streaks as kernels
from ztfds.kernels import trails


def directions(n: int, slopes: list[float], lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    drifts = np.rint(2 * np.arange(n)[None, :] * np.array(slopes)[:, None]).astype(np.int64)
    return drifts, np.array([lengths] * len(slopes), np.int64)


def test_pairs_are_clipped_sums_without_blocked_pixels(rng):
    score = rng.normal(0, 3, (71, 66)).astype(np.float32)
    score[5, 7] = np.nan
    blocked = rng.random(score.shape) < 0.1
    rows, columns = np.zeros((35, 80), np.int16), np.zeros((33, 90), np.int16)
    kernels.halve(score, blocked, 4.0, rows, columns)
    clean = np.where(blocked | np.isnan(score), 0.0, np.clip(score, -4, 4))
    clean = np.rint(clean * kernels.QUANTUM).astype(int)
    np.testing.assert_array_equal(rows[:, :66], clean[0:70:2] + clean[1:70:2])
    # The last row of an odd number belongs to no pair, in either orientation.
    np.testing.assert_array_equal(columns[:, :70], (clean[:, 0::2] + clean[:, 1::2]).T[:, :70])
    assert not rows[:, 66:].any()


def test_best_line_is_that_of_brute_force(rng):
    n, w = 40, 120
    pairs = rng.integers(-120, 120, (n, w)).astype(np.int16)
    pairs[:, 70:] = 0
    drifts, lengths = directions(n, [-0.7, 0.1, 0.9], [3, 5, 8, 12])
    norms = (1 / np.sqrt(lengths)).astype(np.float32)
    hits = np.zeros(((n // 4 + 1) * (w // 8 + 1), kernels.HIT_COLUMNS), np.float32)
    found = kernels.search(pairs, drifts, lengths, norms, 3.0, 4, hits)
    best, count = (0.0, 0, 0, 0, 0), 0
    for a in range(3):
        for r in range(n):
            sums = np.zeros(w)
            values = np.zeros((4, w))
            for back in range(min(12, r + 1)):
                sums += pairs[r - back, (np.arange(w) + drifts[a, r - back]) % w]
                for k in np.flatnonzero(lengths[a] == back + 1):
                    values[k] = sums * norms[a, k] / kernels.QUANTUM
            # Lines that start above the image are the partial sums.
            for k in np.flatnonzero(lengths[a] > r + 1):
                values[k] = sums * norms[a, k] / kernels.QUANTUM
            least = 3.0 * kernels.QUANTUM / norms[a][:, None]
            raw = values * kernels.QUANTUM / norms[a][:, None]
            count += int(np.any(np.rint(raw) > np.floor(least), axis=0).sum())
            x = int(values.max(axis=0).argmax())
            if values[:, x].max() > best[0]:
                best = (values[:, x].max(), a, int(lengths[a, values[:, x].argmax()]), r, x)
    top = hits[hits[:, 0].argmax()]
    assert found == count
    assert top[0] == pytest.approx(best[0], rel=1e-5)
    assert (int(top[1]), int(top[2])) == best[1:3]
    assert top[3] == pytest.approx(best[3] - 0.5 * (best[2] - 1))


def test_line_sums_of_noise_have_unit_width(rng):
    scene = scenes.Scene((512, 512), 2.2, rng)
    images = scene.images()
    rows, columns = np.zeros((256, 700), np.int16), np.zeros((256, 700), np.int16)
    kernels.halve(images.scorr, images.blocked, 5.6, rows, columns)
    from ztfds.difference.streaksearch import _correlation

    drifts, lengths = directions(256, [-0.8, 0.05, 0.5], [4, 8, 15, 30])
    norms = np.empty(lengths.shape, np.float32)
    kernels.line_norms(_correlation(scene.psf.stamp), 3, drifts, lengths, norms)
    for a in range(3):
        frame = np.array([rows[r, (np.arange(700) + drifts[a, r]) % 700] for r in range(256)], float) / kernels.QUANTUM
        sums = np.cumsum(frame, axis=0)
        for k in range(4):
            values = (sums[lengths[a, k] :] - sums[: -lengths[a, k]])[:, :100] * norms[a, k]
            values = values[(np.abs(values) > 0)]
            assert np.std(values) == pytest.approx(1.0, abs=0.12)


def test_integral_along_a_streak(rng):
    psf = scenes.tile_psf(2.5)
    tables = np.empty((3, *psf.fine.shape), np.float32)
    trails.turned_psf(psf.fine, OVERSAMPLING, 0.6, tables)
    half = psf.fine.shape[0] // 2
    sigma = 2.5 / 2.3548
    u = (np.arange(psf.fine.shape[0]) - half) / OVERSAMPLING
    across = np.exp(-(u**2) / (2 * sigma**2)) / np.sqrt(2 * np.pi) / sigma
    np.testing.assert_allclose(tables[1, -1], across, atol=2e-3)
    np.testing.assert_allclose(tables[1, half], 0.5 * across, atol=2e-3)
    np.testing.assert_allclose(tables[2, -1], np.gradient(across, u), atol=4e-3)


@pytest.mark.parametrize(("length", "angle"), [(8.0, 20.0), (30.0, 97.0), (75.0, 160.0)])
def test_fit_without_noise_gives_the_truth(rng, length, angle):
    scene = scenes.Scene((160, 150), 2.3, rng)
    flux = scene.add_streak(74.3, 80.8, angle, length, 40.0)
    images = scene.images(noisy=False)
    out = np.empty(trails.FIT_COLUMNS)
    start = np.array([75.5, 79.5, np.radians(angle + 4), 1.2 * length])
    trails.fit_streak(
        images.diff, images.variance, images.score, images.scorr, scene.psf.noise / scene.psf.limit, images.blocked, scene.psf.fine,
        OVERSAMPLING, start, 0.0, 6.0, 1.0, 250.0, 20, 0.0, 25.0, out,
    )  # fmt: skip
    assert out[0] == pytest.approx(74.3, abs=0.05)
    assert out[1] == pytest.approx(80.8, abs=0.05)
    assert np.degrees(out[2]) == pytest.approx(angle, abs=0.3)
    assert out[3] == pytest.approx(length, abs=0.15)
    assert out[4] == pytest.approx(flux, rel=0.01)
    assert np.sqrt(out[5]) == pytest.approx(40.0, rel=0.02)


def test_lines_are_found_in_every_direction(rng):
    for angle in (3.0, 44.0, 46.0, 88.0, 91.0, 134.0, 137.0, 178.0):
        scene = scenes.Scene((300, 280), 2.2, rng)
        scene.add_streak(140.0, 150.0, angle, 25.0, 14.0)
        lines, noise = find_lines(scene.images(), StreakConfig())
        np.testing.assert_allclose(noise.widths[:4], 1.0, atol=0.1)
        assert lines["sum"][0] > 9
        assert np.hypot(lines["x"][0] - 140, lines["y"][0] - 150) < 6
        turn = (np.degrees(lines["angle"][0]) - angle + 90) % 180 - 90
        assert abs(turn) < 9
