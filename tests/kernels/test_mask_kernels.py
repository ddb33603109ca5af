"""Passes over masks against numpy."""

from __future__ import annotations

import numpy as np

from ztfds.kernels import masks

PATTERNS = np.array([1, 4, 7, 0x8000], np.uint16)


def test_bits_are_counted_as_numpy_counts_them(rng):
    mask = np.where(rng.random((70, 90)) < 0.1, rng.integers(0, 65536, (70, 90)), 0).astype(np.uint16)
    mask[10:20] = 0
    counts = np.empty(4, np.int64)
    masks.count_bits(mask, PATTERNS, counts)
    assert counts.tolist() == [np.count_nonzero(mask & pattern) for pattern in PATTERNS]


def test_good_pixels_are_finite_and_unmarked(rng):
    pixels = rng.normal(0, 1, (30, 40)).astype(np.float32)
    pixels[1, 2], pixels[3, 4], pixels[5, 6] = np.nan, np.inf, -np.inf
    mask = rng.integers(0, 16, pixels.shape).astype(np.uint16)
    good = np.empty(pixels.shape, bool)
    masks.good_pixels(pixels, mask, 6, good)
    np.testing.assert_array_equal(good, ((mask & 6) == 0) & np.isfinite(pixels))


def test_excluded_pixels_are_emptied_and_others_left(rng):
    pixels = rng.normal(10, 1, (30, 40)).astype(np.float32)
    mask = np.where(rng.random(pixels.shape) < 0.05, 2, 8).astype(np.uint16)
    mask[:5] = 8
    good = rng.random(pixels.shape) < 0.9
    before, values = good.copy(), pixels.copy()
    masks.exclude(mask, 2, good, pixels)
    np.testing.assert_array_equal(good, before & (mask != 2))
    lost = before & (mask == 2)
    assert lost.any() and (pixels[lost] == 0).all()
    np.testing.assert_array_equal(pixels[~lost], values[~lost])


def test_state_marks_the_mask(rng):
    state = rng.integers(0, 3, (20, 30)).astype(np.uint8)
    mask = np.full(state.shape, 4, np.uint16)
    masks.mark_state(state, 1, 2, mask)
    np.testing.assert_array_equal(mask, np.where(state == 1, 6, 4))
