"""Gain, noise, linearity, bleeding, defects and bias of the simulated detector, measured from its raw counts."""

from __future__ import annotations

import numpy as np
import pytest

from ztfds.simulator import kernels
from ztfds.simulator.camera import Quadrant, quadrant, radiation
from ztfds.simulator.config import DetectorConfig
from ztfds.survey.detector import linearity

SHAPE, MJD = (264, 256), 60380.0


def detector(rcid: int = 21, **changes: float) -> Quadrant:
    """A readout channel; `changes` of its configuration."""
    return quadrant(1, rcid, SHAPE, 30, DetectorConfig(**changes))


def clean(rcid: int = 21) -> Quadrant:
    """A readout channel without bad pixels."""
    return detector(rcid, dead_per_mpx=0, hot_per_mpx=0, noisy_per_mpx=0, bad_columns_per_mpx=0, dust_per_mpx=0)


def true_counts(q: Quadrant, pixels: np.ndarray, level: np.ndarray | float) -> np.ndarray:
    """Subtract an offset and undo the non-linearity with the survey's coefficients."""
    x = pixels.astype(float) - level
    a, b = linearity(q.ccdid, q.qid, MJD)
    return x / (a * x * x + b * x + 1)


@pytest.mark.parametrize("level", [300.0, 20000.0, 45000.0])
def test_linearity_coefficients_recover_the_true_signal(level: float, rng: np.random.Generator) -> None:
    q = clean()
    bias = np.mean([q.read(np.zeros(SHAPE, np.float32), rng, MJD)[0].mean() for _ in range(20)])
    lit = np.mean(
        [true_counts(q, q.read(np.full(SHAPE, level, np.float32), rng, MJD)[0], bias).mean() for _ in range(20)]
    )
    assert lit == pytest.approx(level, abs=3.0 + 1e-5 * level)
    a, b = linearity(q.ccdid, q.qid, MJD)
    assert abs(a * level**2 + b * level) * level > 30 or level < 40000, "the effect is large enough to be seen"


@pytest.mark.parametrize("level", [0.0, 150.0, 18000.0])
def test_noise_is_poisson_plus_read_noise(level: float, rng: np.random.Generator) -> None:
    q = clean()
    pair = [true_counts(q, q.read(np.full(SHAPE, level, np.float32), rng, MJD)[0], q.base_dn) for _ in range(2)]
    difference = pair[0] - pair[1]
    difference -= np.median(difference, axis=1, keepdims=True)
    expected = level / q.gain + (10.0 / q.gain) ** 2 + 1 / 12
    assert np.var(difference) / 2 == pytest.approx(expected, rel=0.03)
    assert q.gain == pytest.approx(6.2, rel=0.025)


def test_two_frames_share_the_bias_pattern_but_no_noise(rng: np.random.Generator) -> None:
    q = clean()
    one, two = (q.read(np.zeros(SHAPE, np.float32), rng, MJD)[0].astype(float) for _ in range(2))
    flat = [f - np.median(f, axis=1, keepdims=True) for f in (one, two)]
    inner = [f[:, 60:-60] for f in flat]
    correlation = np.corrcoef(inner[0].ravel(), inner[1].ravel())[0, 1]
    assert 0.02 < correlation < 0.25, "0.4 DN of fixed pattern under 1.6 DN of noise"


@pytest.mark.parametrize(("rcid", "column"), [(20, 0), (21, -1), (22, -1), (23, 0)])
def test_start_up_ramp_is_on_the_amplifier_side(rcid: int, column: int, rng: np.random.Generator) -> None:
    q = clean(rcid)
    mean = np.mean([q.read(np.zeros(SHAPE, np.float32), rng, MJD)[0] for _ in range(10)], axis=0).mean(axis=0)
    assert mean[column] - np.median(mean) > 2.0
    assert abs(mean[-1 - column] - np.median(mean)) < 1.0


def test_overscan_follows_the_offset_of_the_rows(rng: np.random.Generator) -> None:
    q = quadrant(1, 22, SHAPE, 30, DetectorConfig(row_drift_dn=20.0, hot_per_mpx=0, noisy_per_mpx=0))
    offsets = []
    for _ in range(4):
        pixels, overscan = q.read(np.full(SHAPE, 500.0, np.float32), rng, MJD)
        rows, strip = pixels.astype(float).mean(axis=1), overscan[:, 8:].astype(float).mean(axis=1)
        assert np.std(rows - strip) < 0.8 < np.std(strip)
        offsets.append(strip.mean())
    assert np.std(offsets) > 0.3


def test_overscan_tail_comes_from_the_last_pixels_read(rng: np.random.Generator) -> None:
    for rcid, last in ((20, 255), (21, 0)):
        image = np.zeros(SHAPE, np.float32)
        image[:, last] = 40000.0
        _, overscan = clean(rcid).read(image, rng, MJD)
        assert overscan[:, 0].mean() - overscan[:, 15:].mean() == pytest.approx(16.0, abs=1.0)


def test_bleeding_runs_along_the_column_and_keeps_the_charge() -> None:
    image = np.full(SHAPE, 100.0, np.float32)
    image[100, 50] += 1.05e6
    before = image.astype(float).sum()
    assert kernels.bleed(image, 51000.0, 0.55) == 1
    assert image.max() <= 51000.0
    rows, columns = np.nonzero(image > 101.0)
    assert (
        set(columns) == {50} and rows.min() < 100 < rows.max() and rows.max() - rows.min() == pytest.approx(20, abs=2)
    )
    assert rows.max() - 100 > 100 - rows.min()
    assert image.astype(float).sum() == pytest.approx(before, rel=1e-6)


def test_saturated_pixels_reach_the_well_not_more(rng: np.random.Generator) -> None:
    q = clean()
    image = np.full(SHAPE, 200.0, np.float32)
    image[30:33, 40:43] = 2e5
    pixels, _ = q.read(image, rng, MJD)
    assert 50000 < pixels.max() < 55000
    assert np.all(pixels[30:33, 40:43] > 49000)


def test_defects_are_where_they_are_said_to_be(rng: np.random.Generator) -> None:
    q = detector(dead_per_mpx=300, hot_per_mpx=300, noisy_per_mpx=0, bad_columns_per_mpx=40, dust_per_mpx=0)
    d = q.defects
    assert len(d.dead) > 5 and len(d.hot) > 5 and d.columns
    image = np.full(SHAPE, 10000.0, np.float32)
    q.respond(image, 1, 5.0)
    typical = np.median(image)
    assert np.all(image[d.dead[:, 0], d.dead[:, 1]] < 0.35 * typical + d.hot_rate.max() * 10)
    x, y0, y1, response = d.columns[0]
    assert np.median(image[y0:y1, x]) == pytest.approx(response * typical, rel=0.06)
    dark = np.zeros(SHAPE, np.float32)
    q.heat(dark, 30.0)
    assert np.all(dark[d.hot[:, 0], d.hot[:, 1]] > 25.0) and np.count_nonzero(dark) == len({tuple(p) for p in d.hot})
    assert d.near(float(d.hot[0, 1]), float(d.hot[0, 0])) >= 1


def test_response_is_fixed_and_has_the_asked_scatter() -> None:
    q, other = clean(21), clean(22)
    one, two, three = (np.full(SHAPE, 1.0, np.float32) for _ in range(3))
    q.respond(one, 1, 0.0)
    q.respond(two, 1, 0.0)
    other.respond(three, 1, 0.0)
    assert np.array_equal(one, two) and not np.allclose(one, three, atol=1e-4)
    fine = one[:, 1:] - one[:, :-1]
    assert np.std(fine) / np.sqrt(2) == pytest.approx(0.006, rel=0.05)
    assert abs(np.corrcoef(fine.ravel(), (three[:, 1:] - three[:, :-1]).ravel())[0, 1]) < 0.02


def test_radiation_adds_the_charge_it_reports(rng: np.random.Generator) -> None:
    image = np.zeros(SHAPE, np.float32)
    hits = radiation(image, rng, DetectorConfig(radiation_per_mpx=200.0), 38.0, 6.2)
    assert 5 <= len(hits) <= 40
    assert image.sum() == pytest.approx(sum(h[4] for h in hits), rel=1e-4)
    assert np.count_nonzero(image) <= sum(h[5] for h in hits)
    x, y = round(hits[0][0]), round(hits[0][1])
    assert image[y, x] > 0


def test_halos_and_dust_are_rings_of_the_right_size() -> None:
    image = np.zeros(SHAPE, np.float32)
    kernels.paint_ring(image, 120.0, 130.0, 40.0, 80.0, 1e5)
    assert image.sum() == pytest.approx(1e5, rel=0.01)
    yy, xx = np.nonzero(image)
    radius = np.hypot(xx - 120.0, yy - 130.0)
    assert radius.min() == pytest.approx(40, abs=1) and radius.max() == pytest.approx(80, abs=1)
    image[:] = 1.0
    kernels.shade_ring(image, 60.0, 60.0, 0.0, 10.0, 0.97)
    assert np.sum(1.0 - image) == pytest.approx(0.03 * np.pi * 100, rel=0.05)
