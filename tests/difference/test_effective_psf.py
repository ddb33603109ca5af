"""The PSF that the difference's convolutions use, against stars drawn and resampled at many sub-pixel phases."""

from __future__ import annotations

import analytic_sky as sky
import numpy as np
import pytest

from ztfds.difference.prepare import effective_psf
from ztfds.reference.grid import CoarseGrid, resample_image

SIZE, GRID = 25, 64


def shifted_back(stamp: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Band-limited shift of a stamp by (-dx, -dy)."""
    fy, fx = np.fft.fftfreq(GRID)[:, None], np.fft.rfftfreq(GRID)[None, :]
    moved = np.fft.rfft2(stamp, (GRID, GRID)) * np.exp(2j * np.pi * (fx * dx + fy * dy))
    return np.fft.irfft2(moved, (GRID, GRID))[: stamp.shape[0], : stamp.shape[1]]


def mean_star(psf: sky.MoffatPsf, phase: tuple[float, float] | None) -> np.ndarray:
    """Mean over sub-pixel positions of what a star looks like after (resampling and) shifting it back."""
    total, steps = np.zeros((SIZE, SIZE)), (np.arange(8) + 0.5) / 8 - 0.5
    for dx in steps:
        for dy in steps:
            if phase is None:
                star = psf.draw(0, 0, SIZE, dx, dy)
                total += shifted_back(star, dx, dy) / steps.size**2
                continue
            image = psf.draw(0, 0, 41, dx + phase[0], dy + phase[1]).astype(np.float32)
            y, x = np.mgrid[0:49:8, 0:49:8].astype(float)
            moved = resample_image(image, CoarseGrid(x + phase[0], y + phase[1], 8, (41, 41)))
            total += shifted_back(moved[8:33, 8:33], dx, dy) / steps.size**2
    return total


@pytest.mark.parametrize("phase", [None, (0.5, 0.5), (0.3, 0.0), (0.7, 0.2)])
def test_effective_psf_is_the_mean_star(phase: tuple[float, float] | None) -> None:
    psf = sky.MoffatPsf(2.0)
    expected, plain = mean_star(psf, phase), psf.stamp(0, 0, SIZE).astype(float)
    made = effective_psf(psf, 0.0, 0.0, SIZE, phase)
    core = np.s_[8:17, 8:17]
    wrong, before = np.abs(made - expected)[core].max(), np.abs(plain - expected)[core].max()
    assert wrong < 0.35 * before
    assert wrong < 1.5e-3
    assert made.sum() == pytest.approx(plain.sum(), abs=3e-3)


def test_a_well_sampled_psf_stays() -> None:
    psf = sky.MoffatPsf(4.5)
    np.testing.assert_allclose(effective_psf(psf, 0.0, 0.0, SIZE), psf.stamp(0, 0, SIZE), atol=2e-4)
