"""Candidate kernels against numpy and sep."""

from __future__ import annotations

import numpy as np
import pytest
import sep

from ztfds.kernels import candidates as kernels


def gauss_image(shape: tuple[int, int], x0: float, y0: float, sigma: float, flux: float) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    value = flux / (2 * np.pi * sigma**2) * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
    return value.astype(np.float32)


def fine_psf(sigma: float, over: int = 5, radius: int = 12) -> np.ndarray:
    u = (np.arange(2 * over * radius + 1) - over * radius) / over
    value = np.exp(-(u[None, :] ** 2 + u[:, None] ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    return value.astype(np.float32)


def test_peaks_of_both_signs() -> None:
    score = np.zeros((50, 60), np.float32)
    score[10, 20], score[10, 21], score[30, 40], score[45, 5], score[1, 1] = 8, 6, -7, 3.5, 50
    score[20, 20], score[20, 21] = 6, 6  # a plateau is one peak
    score[40, 40] = np.nan
    blocked = np.zeros(score.shape, bool)
    blocked[35, 10], score[35, 10] = True, 9
    table, counts = np.empty((10, 3)), np.empty((2, 3, 2), np.int64)
    n = kernels.find_peaks(score, blocked, 5.0, 3.0, 4, table, counts)
    assert n == 3
    assert {(int(j), int(i)) for j, i, _ in table[:n]} == {(10, 20), (30, 40), (20, 21)}
    assert counts.tolist() == [[[0, 0], [2, 0], [0, 0]], [[1, 0], [0, 0], [0, 1]]]


@pytest.mark.parametrize("sign", [1, -1])
def test_height_between_pixels(sign: int) -> None:
    """A peak at a corner of pixels has the height that it would have on one."""
    table, counts = np.empty((10, 3)), np.empty((2, 3, 2), np.int64)
    for x, y in ((20.5, 30.5), (20.3, 30.0), (21.0, 29.6)):
        score = gauss_image((60, 60), x, y, 1.2, sign * 6.0 * 2 * np.pi * 1.2**2)
        assert kernels.find_peaks(score, np.zeros(score.shape, bool), 5.0, 3.0, 4, table, counts) == 1
        assert table[0, 2] == pytest.approx(sign * 6.0, rel=1e-3)
        assert counts.sum() == 1


def test_full_list_still_counts() -> None:
    score = np.zeros((50, 50), np.float32)
    score[5:45:4, 5:45:4] = 6
    table, counts = np.empty((7, 3)), np.empty((2, 3, 2), np.int64)
    assert kernels.find_peaks(score, np.zeros(score.shape, bool), 5.0, 3.0, 1, table, counts) == 100


@pytest.mark.parametrize("sign", [1, -1])
def test_psf_fit_recovers_flux_and_position(sign: int) -> None:
    image = 2.0 + sign * gauss_image((60, 60), 30.37, 28.81, 1.05, 500.0)
    variance = np.full(image.shape, 4.0, np.float32)
    out = np.empty((1, 6))
    start = np.array([29.0]), np.array([30.0])
    kernels.fit_psf(
        image.astype(np.float32),
        variance,
        *start,
        np.array([2.0]),
        fine_psf(1.05)[None],
        np.zeros(1, np.int64),
        5,
        5,
        10,
        2.0,
        0.0,
        out,
    )
    assert out[0, 0] == pytest.approx(sign * 500.0, rel=2e-3)
    assert out[0, 2] == pytest.approx(28.81, abs=5e-3)
    assert out[0, 3] == pytest.approx(30.37, abs=5e-3)
    assert out[0, 4] < 0.05
    assert out[0, 1] == pytest.approx(2.0 * np.sqrt(4 * np.pi) * 1.05, rel=0.02)  # sigma / sqrt(sum P^2)


def test_forced_fit_keeps_the_position(rng: np.random.Generator) -> None:
    image = gauss_image((60, 60), 30.0, 30.0, 1.0, 0.0) + rng.normal(0, 3, (60, 60)).astype(np.float32)
    out = np.empty((1, 6))
    at = np.array([30.3])
    kernels.fit_psf(
        image.astype(np.float32), np.full(image.shape, 9.0, np.float32), at, at, np.zeros(1), fine_psf(1.0)[None],
        np.zeros(1, np.int64), 5, 5, 0, 2.0, 0.0, out,
    )  # fmt: skip
    assert out[0, 2] == out[0, 3] == 30.3
    assert abs(out[0, 0]) < 5 * out[0, 1]


def test_fit_errors_are_honest(rng: np.random.Generator) -> None:
    pulls, chis = [], []
    variance = np.full((41, 41), 25.0, np.float32)
    for _ in range(300):
        x, y = 20 + rng.uniform(-0.5, 0.5, 2)
        image = gauss_image((41, 41), x, y, 1.05, 800.0) + rng.normal(0, 5, (41, 41))
        out = np.empty((1, 6))
        at = np.array([20.0])
        kernels.fit_psf(
            image.astype(np.float32),
            variance,
            at,
            at,
            np.zeros(1),
            fine_psf(1.05)[None],
            np.zeros(1, np.int64),
            5,
            4,
            10,
            2.0,
            0.0,
            out,
        )
        pulls.append((out[0, 0] - 800) / out[0, 1])
        chis.append(out[0, 4])
    assert np.std(pulls) == pytest.approx(1.0, abs=0.12)
    assert np.mean(chis) == pytest.approx(1.0, abs=0.05)


def test_the_source_s_own_photons_do_not_bias_its_flux() -> None:
    """Weights from noisy pixels lose about an electron per pixel; with those of the model the mean flux is right."""
    rng = np.random.default_rng(11)
    gain, n, truth = 2.0, 400, 1000.0
    light = gauss_image((21, 21), 10.0, 10.0, 1.05, truth)
    at, means = np.array([10.0]), []
    for per_dn in (0.0, 1 / gain):
        rng = np.random.default_rng(11)
        fluxes = []
        for _ in range(n):
            electrons = rng.poisson(gain * light + 4.0)
            image = ((electrons - 4.0) / gain).astype(np.float32)
            # photons and sky; with per_dn the source's own come from the model
            variance = (((electrons if per_dn == 0 else 4.0) + 4.0 + 0 * light) / gain**2).astype(np.float32)
            out = np.empty((1, 6))
            kernels.fit_psf(
                image, variance, at, at, np.zeros(1), fine_psf(1.05)[None], np.zeros(1, np.int64), 5, 4, 0, 2.0, per_dn, out,
            )  # fmt: skip
            fluxes.append(out[0, 0])
        means.append(np.mean(fluxes) / truth - 1)
    assert means[0] < -4e-3
    assert abs(means[1]) < 2.5e-3


def test_apertures_against_sep(rng: np.random.Generator) -> None:
    image = rng.normal(5, 3, (80, 80)).astype(np.float32)
    x, y = rng.uniform(12, 68, 20), rng.uniform(12, 68, 20)
    out = np.empty((20, 3))
    kernels.aperture_sums(image, np.full(image.shape, 9.0, np.float32), y, x, np.zeros(20), 7.0, out)
    expected, error, _ = sep.sum_circle(image, x, y, 7.0, err=3.0, subpix=0)
    np.testing.assert_allclose(out[:, 0], expected, atol=5.0)  # 1 % of a pixel's area on the rim
    np.testing.assert_allclose(np.sqrt(out[:, 1]), error, rtol=2e-3)
    np.testing.assert_allclose(out[:, 2], np.pi * 49, rtol=2e-3)


def test_local_sky(rng: np.random.Generator) -> None:
    image = rng.normal(7, 2, (80, 80)).astype(np.float32)
    image[38:43, 38:43] += 1000
    image[10:30, 60] = np.nan
    out = np.empty((1, 2))
    kernels.local_sky(image, np.array([40.0]), np.array([40.0]), 10.0, 20.0, out)
    assert out[0, 0] == pytest.approx(7.0, abs=0.4)
    assert out[0, 1] == pytest.approx(1.25 * 2 / np.sqrt(np.pi * 300), rel=0.15)


def test_stamp_counts(rng: np.random.Generator) -> None:
    image = rng.normal(0, 3, (40, 40)).astype(np.float32)
    bad = rng.random((40, 40)) < 0.1
    out = np.empty((2, 3))
    kernels.stamp_counts(image, bad, np.array([20, 1]), np.array([15, 39]), np.array([1.0, -1.0]), out)
    stamp = image[18:23, 13:18]
    assert out[0, 0] == (stamp < 0).sum()
    assert out[0, 1] == bad[18:23, 13:18].sum()
    assert out[1, 0] == (-image[0:4, 37:40] < 0).sum()
    assert out[1, 1] == bad[0:4, 37:40].sum() + 13


def test_sum_ratio_tells_sources_from_noise(rng: np.random.Generator) -> None:
    star = gauss_image((40, 40), 20, 20, 1.1, 500.0)
    noise = rng.normal(0, 3, (400, 40, 40)).astype(np.float32)
    bad = np.zeros((40, 40), bool)
    at, out, ratios = np.array([20]), np.empty((1, 3)), []
    for layer in noise:
        kernels.stamp_counts(layer, bad, at, at, np.ones(1), out)
        ratios.append(out[0, 2])
    assert abs(np.mean(ratios)) < 0.1
    kernels.stamp_counts(star, bad, at, at, np.ones(1), out)
    assert out[0, 2] == pytest.approx(1.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_shapes_of_a_star(sign: float) -> None:
    sigma = 1.1
    image = (3 + sign * gauss_image((60, 60), 30.2, 29.7, sigma, 900.0)).astype(np.float32)
    out = np.empty((1, 3))
    kernels.shapes(image, np.array([29.7]), np.array([30.2]), np.array([3.0]), np.array([sign]), 2.3548 * sigma, out)
    assert out[0, 0] == pytest.approx(sigma / np.sqrt(2), rel=0.03)
    assert out[0, 1] == pytest.approx(sigma / np.sqrt(2), rel=0.03)
    assert out[0, 2] == pytest.approx(2.3548 * sigma, rel=0.1)


def test_shapes_of_a_streak() -> None:
    image = sum(gauss_image((60, 60), 24 + k, 30.0, 1.1, 100.0) for k in range(13)).astype(np.float32)
    out = np.empty((1, 3))
    kernels.shapes(image, np.array([30.0]), np.array([30.0]), np.zeros(1), np.ones(1), 2.6, out)
    assert out[0, 0] / out[0, 1] > 1.3
    assert out[0, 2] > 3.5
