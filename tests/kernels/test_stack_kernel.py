"""The sorting network and the clipped stack against numpy, scipy and astropy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from astropy.stats import sigma_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from ztfds import kernels
from ztfds.calibration.stacking import recipe
from ztfds.kernels.stack import clipped_stack, selection_network, sorting_network


def run(samples, kappa, typical):
    """Mean, deviation, kept samples per pixel and their average, without corrections for normal noise."""
    n, m = samples.shape
    mean, std, error = (np.empty(m, np.float32) for _ in range(3))
    rejected = np.empty(m, np.uint8)
    how = recipe(n, kappa)
    kept = clipped_stack(
        samples, how.network, how.trim, how.half_to_sigma, kappa, typical, 1.0, 1.0, mean, std, error, rejected
    )
    per_pixel = n - rejected.astype(int)
    assert kept == per_pixel.sum()
    assert np.allclose(error * np.sqrt(np.maximum(per_pixel, 1)), std, rtol=1e-5)
    return mean, std, per_pixel, kept / m


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


@given(st.integers(1, 24), st.data())
@settings(max_examples=60, deadline=None)
def test_a_selection_brings_the_wanted_wires_into_place(n, data):
    wanted = data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=4))
    values = np.array(data.draw(st.lists(st.floats(-1e6, 1e6), min_size=n, max_size=n)))
    wires, network = values.copy(), selection_network(n, wanted)
    for low, high in network:
        if wires[low] > wires[high]:
            wires[[low, high]] = wires[[high, low]]
    assert all(wires[k] == np.sort(values)[k] for k in wanted)
    assert sorted(wires) == sorted(values)
    assert len(network) <= len(sorting_network(n))


@pytest.mark.parametrize("n", [5, 12, 20])
def test_the_recipe_undoes_the_bias_of_clipped_deviations(rng, n):
    samples = rng.normal(0, 3, (n, 40_000)).astype(np.float32)
    mean, std, _, _ = run(samples, 3.5, 3.0)
    how = recipe(n, 3.5)
    assert np.sqrt(np.mean(std**2)) / how.rms == pytest.approx(3, rel=0.01)
    assert np.median(std) / how.median == pytest.approx(3, rel=0.01)
    assert 0.97 < how.rms < 1
    assert 1.0 <= how.efficiency < 1.02
    assert mean.std() < 1.02 * 3 / np.sqrt(n)


def test_without_rejection_it_is_the_plain_mean_and_deviation(rng):
    samples = rng.normal(1000, 5, (11, 700)).astype(np.float32)
    mean, std, kept, _ = run(samples, 1e6, 0.0)
    assert np.allclose(mean, samples.mean(0), atol=1e-3)
    assert np.allclose(std, samples.std(0, ddof=1), rtol=1e-4)
    assert (kept == 11).all()


def test_the_mean_is_better_than_astropys_clipping_without_outliers(rng):
    samples = rng.normal(0, 1, (20, 20_000)).astype(np.float32)
    mean, _, _, average = run(samples, 3.5, 1.0)
    theirs = sigma_clip(samples, sigma=2.5, maxiters=5, cenfunc="median", stdfunc="mad_std", axis=0).mean(axis=0)
    assert mean.std() < 0.97 * np.asarray(theirs).std()
    assert mean.std() < 1.02 / np.sqrt(20)
    assert 19.9 < average < 20


@pytest.mark.parametrize("outliers", [1, 3, 8])
def test_outliers_on_one_side_do_not_move_the_mean(rng, outliers):
    """Radiation adds charge: up to 8 of 20 samples may have some."""
    samples = rng.normal(50, 2, (20, 5000)).astype(np.float32)
    hit = rng.permutation(20)[:outliers]
    clean = np.delete(samples, hit, axis=0)
    samples[hit] += rng.uniform(40, 30_000, (outliers, 5000)).astype(np.float32)
    mean, std, kept, _ = run(samples, 3.5, 2.0)
    assert (kept <= 20 - outliers).all()
    assert np.mean(kept == 20 - outliers) > 0.98
    assert np.abs(mean - clean.mean(0)).max() < 2.0
    assert mean.std() < 1.03 * 2 / np.sqrt(20 - outliers)
    assert np.median(std) == pytest.approx(2, rel=0.1)


def test_outliers_on_both_sides_do_not_move_the_mean(rng):
    samples = rng.normal(50, 2, (20, 5000)).astype(np.float32)
    samples[:4] += rng.uniform(40, 3000, (4, 5000)).astype(np.float32)
    samples[4:7] -= rng.uniform(40, 3000, (3, 5000)).astype(np.float32)
    mean, _, kept, _ = run(samples, 3.5, 2.0)
    assert (kept <= 13).all()
    assert mean.std() < 1.03 * 2 / np.sqrt(13)


@given(st.integers(5, 24), st.floats(-1e4, 1e4), st.floats(0.1, 50), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_stack_moves_and_stretches_with_its_samples(n, offset, stretch, seed):
    samples = np.random.default_rng(seed).normal(0, 1, (n, 300)).astype(np.float32)
    samples[0, ::3] += 100
    mean, std, kept, _ = run(samples, 3.5, 1.0)
    moved, wide, same, _ = run((samples * np.float32(stretch) + np.float32(offset)), 3.5, stretch)
    alike = kept == same  # a sample at the very limit may fall on either side after rounding
    assert alike.mean() > 0.98
    tolerance = 1e-5 * (abs(offset) + stretch * 100)
    assert np.allclose(moved[alike], mean[alike] * stretch + offset, atol=tolerance)
    assert np.allclose(wide[alike], std[alike] * stretch, rtol=2e-3, atol=tolerance)


def test_constant_samples_are_kept_by_the_floor():
    samples = np.full((6, 300), 7, np.float32)
    samples[0] = 7.3
    mean, std, kept, _ = run(samples, 3.5, 0.29)
    assert (kept == 6).all()
    assert np.allclose(mean, 7.05)
    assert np.allclose(std, samples[:, 0].std(ddof=1), rtol=1e-4)


def test_warm_imports_every_kernel_module():
    names = kernels.warm()
    assert {"ztfds.kernels.detrend", "ztfds.kernels.stack", "ztfds.kernels.masks", "ztfds.kernels.lines"} <= set(names)
