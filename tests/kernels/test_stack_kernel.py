"""The sorting network and the clipped stack against numpy, scipy and astropy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from astropy.stats import sigma_clip

from ztfds import kernels
from ztfds.calibration.stacking import clipping_response, order_statistic_distance
from ztfds.kernels.stack import clipped_stack, sorting_network


def run(samples, trim, kappa, floor):
    n, m = samples.shape
    mean, std, error = (np.empty(m, np.float32) for _ in range(3))
    to_sigma = 1 / order_statistic_distance(n, trim)
    kept = clipped_stack(samples, sorting_network(n), trim, to_sigma, kappa, floor, 1.0, 1.0, mean, std, error)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_pixel = (std / error) ** 2
    return mean, std, np.where(error > 0, per_pixel, kept / m), kept / m


@pytest.mark.parametrize("n", range(1, 13))
def test_the_network_sorts_every_sequence_of_zeros_and_ones(n):
    """By the 0-1 principle (Knuth vol. 3, 5.3.4, theorem Z) it then sorts everything."""
    wires = np.array(list(itertools.product((0, 1), repeat=n))).T
    for low, high in sorting_network(n):
        a, b = wires[low].copy(), wires[high].copy()
        wires[low], wires[high] = np.minimum(a, b), np.maximum(a, b)
    assert (np.diff(wires, axis=0) >= 0).all()


@pytest.mark.parametrize("n", [20, 33, 60])
def test_the_network_sorts_random_numbers(rng, n):
    wires = rng.normal(size=(n, 500))
    expected = np.sort(wires, axis=0)
    for low, high in sorting_network(n):
        a, b = wires[low].copy(), wires[high].copy()
        wires[low], wires[high] = np.minimum(a, b), np.maximum(a, b)
    assert np.array_equal(wires, expected)


@pytest.mark.parametrize(("n", "trim"), [(5, 1), (12, 2), (20, 3)])
def test_order_statistics_agree_with_simulation(rng, n, trim):
    ordered = np.sort(rng.normal(size=(200_000, n)), axis=1)
    simulated = (ordered[:, n - 1 - trim] - ordered[:, trim]).mean()
    assert order_statistic_distance(n, trim) == pytest.approx(simulated, rel=3e-3)


@pytest.mark.parametrize("n", [5, 12, 20])
def test_clipping_response_undoes_the_bias_of_clipped_deviations(rng, n):
    samples = rng.normal(0, 3, (n, 40_000)).astype(np.float32)
    _, std, _, _ = run(samples, max(1, n // 6), 2.5, 0.0)
    rms, median, efficiency = clipping_response(n, 2.5)
    assert np.sqrt(np.mean(std**2)) / rms == pytest.approx(3, rel=0.01)
    assert np.median(std) / median == pytest.approx(3, rel=0.01)
    assert rms < 1
    assert 1.0 < efficiency < 1.12


def test_without_rejection_it_is_the_plain_mean_and_deviation(rng):
    samples = rng.normal(1000, 5, (11, 700)).astype(np.float32)
    mean, std, kept, _ = run(samples, 1, 1e6, 0.0)
    assert np.allclose(mean, samples.mean(0), atol=1e-3)
    assert np.allclose(std, samples.std(0, ddof=1), rtol=1e-4)
    assert np.allclose(kept, 11)


def test_the_mean_is_nearly_as_good_as_astropys_clipping_without_outliers(rng):
    samples = rng.normal(0, 1, (20, 20_000)).astype(np.float32)
    mean, _, kept, average = run(samples, 3, 2.5, 0.0)
    theirs = sigma_clip(samples, sigma=2.5, maxiters=5, cenfunc="median", stdfunc="mad_std", axis=0).mean(axis=0)
    assert mean.std() < 1.01 * np.asarray(theirs).std()
    assert mean.std() < 1.08 / np.sqrt(20)
    assert 18.5 < average < 19.9
    assert kept.mean() == pytest.approx(average, rel=1e-3)


def test_three_outliers_of_twenty_do_not_move_the_mean(rng):
    samples = rng.normal(50, 2, (20, 5000)).astype(np.float32)
    clean = samples.copy()
    samples[[2, 9, 17]] += rng.uniform(200, 30_000, (3, 5000)).astype(np.float32)
    mean, std, kept, _ = run(samples, 3, 2.5, 0.0)
    assert np.abs(mean - clean[[k for k in range(20) if k not in (2, 9, 17)]].mean(0)).max() < 2.0
    assert np.median(np.abs(mean - 50)) < 2 * 0.6745 * 2 / np.sqrt(17)
    assert (kept < 17.01).all()
    assert np.median(std) == pytest.approx(2, rel=0.15)


def test_constant_samples_are_kept_by_the_floor():
    samples = np.full((6, 300), 7, np.float32)
    samples[0] = 7.3
    mean, std, kept, _ = run(samples, 1, 2.5, 0.29)
    assert np.allclose(kept, 6)
    assert np.allclose(mean, 7.05)
    assert np.allclose(std, samples[:, 0].std(ddof=1), rtol=1e-4)


def test_warm_imports_every_kernel_module():
    names = kernels.warm()
    assert {"ztfds.kernels.detrend", "ztfds.kernels.stack", "ztfds.kernels.masks", "ztfds.kernels.lines"} <= set(names)
