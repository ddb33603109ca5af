"""Line kernels against direct sums and geometry."""

from __future__ import annotations

import numpy as np
import pytest

from ztfds.kernels import lines


def transform(image, n):
    table = np.zeros((n, n + image.shape[1]), np.float32)
    table[: image.shape[0], n:] = image
    lines.radon_half(table, np.zeros_like(table), *image.shape)
    return table


@pytest.mark.parametrize("shape", [(16, 16), (13, 20), (32, 9)])
def test_the_transform_sums_a_connected_line_of_one_cell_per_row(rng, shape):
    """Each sum visits one cell in each row: every column sum of ones is the number of rows the line spends inside."""
    n = 1 << (shape[0] - 1).bit_length()
    ones = transform(np.ones(shape, np.float32), n)
    assert ones.max() <= shape[0]
    assert (ones[0, n:] == shape[0]).all()
    impulse = np.zeros(shape, np.float32)
    y, x = shape[0] // 2, shape[1] // 2
    impulse[y, x] = 1
    table = transform(impulse, n)
    slope, start = np.nonzero(table)
    off = start - n + slope * y / (n - 1) - x
    assert np.abs(off).max() <= np.log2(n) / 2
    assert np.bincount(slope, minlength=n).tolist() == [1] * n


def test_total_charge_is_conserved_for_every_slope(rng):
    image = rng.random((16, 16)).astype(np.float32)
    assert np.allclose(transform(image, 16).sum(axis=1), image.sum(), rtol=1e-5)


@pytest.mark.parametrize(("x0", "x1"), [(5, 50), (20, 20), (-30, 30), (10, 70)])
def test_best_line_recovers_a_drawn_line(rng, x0, x1):
    rows, columns = 60, 64
    image = rng.normal(0, 0.5, (rows, columns)).astype(np.float32)
    for y in range(rows):
        x = round(x0 + (x1 - x0) * y / (rows - 1))
        if 0 <= x < columns:
            image[y, x] += 2
    sigma, slope, start, spread = lines.best_line(transform(image, 64), rows, columns, 15)
    assert 0.4 < spread < 1.5
    assert sigma > 5
    assert abs(start - x0) <= 2
    assert abs(start + slope * (rows - 1) / 63 - x1) <= 3


def test_binning_clips_and_leaves_out_bad_pixels():
    pixels = np.full((9, 8), 12.0, np.float32)
    pixels[0, 0], pixels[1, 1] = 1e6, -1e6
    state = np.zeros(pixels.shape, np.uint8)
    state[4:8, 4:8] = 2
    state[4, 0] = 2
    cells = np.full((2, 2), 9, np.float32)
    lines.bin_significance(pixels, np.full(pixels.shape, 10, np.float32), state, 2.0, 4.0, 4, cells)
    assert np.allclose(cells, [[(14 + 4 - 4) / 4, 4], [15 / np.sqrt(15), 0]])


def test_a_strip_follows_its_line():
    y, x = np.mgrid[:60, :80]
    pixels = (1000 * y + x).astype(np.float32)
    strip = np.empty((41, 5), np.float32)
    lines.strip_along(pixels, np.zeros_like(pixels), np.zeros(pixels.shape, np.uint8), 20, 30, 60, 30, strip)
    assert np.array_equal(strip[:, 2], 30000 + np.arange(20, 61))
    assert np.array_equal(strip[:, 4], 32000 + np.arange(20, 61))
    state = np.zeros(pixels.shape, np.uint8)
    state[30, 20] = 2
    lines.strip_along(pixels, np.zeros_like(pixels), state, 20, 30, 20, -10, strip)
    assert np.isnan(strip[0, 2])
    assert np.isnan(strip[-1]).all()
    assert strip[1, 4] == 29000 + 22


def test_best_offsets_finds_a_tilted_ridge(rng):
    strip = rng.normal(0, 1, (300, 41)).astype(np.float32)
    for t in range(300):
        k = 20 - 6 + round(9 * t / 299)
        strip[t, k - 1 : k + 2] += 1.5
    strip[50:70] = np.nan
    d0, d1, mean = lines.best_offsets(strip, 10)
    assert (abs(d0 + 6) <= 1, abs(d1 - 3) <= 1) == (True, True)
    assert 1.0 < mean < 2.0


@pytest.mark.parametrize("ends", [(5, 5, 50, 30), (10, -20, 12, 90), (-10, 20, 80, 20), (30, 30, 30, 30)])
def test_a_painted_line_is_all_pixels_within_its_half_width(ends):
    mask = np.zeros((60, 70), np.uint16)
    count = lines.paint_line(mask, 1, *ends, 3.3)
    x0, y0, x1, y1 = ends
    y, x = np.mgrid[:60, :70]
    span2 = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-12)
    f = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / span2, 0, 1)
    expected = np.hypot(x - x0 - f * (x1 - x0), y - y0 - f * (y1 - y0)) <= 3.3
    assert np.array_equal(mask != 0, expected)
    assert count == expected.sum()


@pytest.mark.parametrize(("x", "y", "inner", "outer"), [(20.3, 30.7, 0, 9.5), (-4, 62, 5, 25), (200, 200, 0, 10)])
def test_a_painted_annulus_is_exact(x, y, inner, outer):
    mask = np.full((60, 70), 2, np.uint16)
    lines.paint_annulus(mask, 32, x, y, inner, outer)
    gy, gx = np.mgrid[:60, :70]
    r = np.hypot(gx - x, gy - y)
    assert np.array_equal(mask == 34, (r >= inner) & (r <= outer))


def test_pieces_say_how_far_the_middle_stands_out(rng):
    """Significance as with numpy's medians; pieces as numpy splits; a piece without enough good pixels says 0."""
    strip = rng.normal(0, 3, (211, 65)).astype(np.float32)
    strip[60:110, 31:34] += 6
    strip[135:172, 31:34] = np.nan
    pieces = np.empty(5)
    lines.piece_significance(strip, 1, 12, 2.5, pieces)
    for k, part in enumerate(np.array_split(strip, 5)):
        inner, outer = part[:, 31:34].ravel(), np.concatenate((part[:, :12], part[:, -12:])).ravel()
        inner = inner[np.isfinite(inner)]
        if 2 * inner.size < part.shape[0] * 3:
            assert pieces[k] == 0.0
            continue
        scatter = max(2.5, 1.4826 * np.median(np.abs(outer - np.median(outer))))
        error = lines.MEDIAN_NOISE * scatter * np.sqrt(1 / inner.size + 1 / outer.size)
        assert pieces[k] == pytest.approx((np.median(inner) - np.median(outer)) / error, abs=1e-4)
    assert pieces[2] > 5 > pieces[0] and pieces[3] == 0.0


def test_the_transform_does_not_depend_on_its_blocks(rng):
    """More rows than a block, with an odd number of turns: the same sums as straight from the definition's recursion."""
    image = rng.normal(0, 1, (130, 40)).astype(np.float32)

    def recursion(part):
        if len(part) == 1:
            return part
        upper, lower = (recursion(half) for half in np.split(part, 2))
        rows = []
        for s in range(len(part)):
            shift = s - s // 2
            rows.append(upper[s // 2] + np.concatenate((lower[s // 2][shift:], np.zeros(shift, np.float32))))
        return np.stack(rows)

    padded = np.zeros((256, 296), np.float32)
    padded[:130, 256:] = image
    expected, found = recursion(padded), transform(image, 256)
    for s in range(0, 256, 17):
        np.testing.assert_allclose(found[s, 256 - s :], expected[s, 256 - s :], atol=1e-4)
