"""The sky of an image: level and noise on a mesh of boxes, robust against crowding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ztfds.config.photometry import BackgroundConfig
from ztfds.kernels import background as kernels


@dataclass(frozen=True)
class Background:
    """Sky level and noise; maps are bilinear between box centres.

    Attributes
    ----------
    mesh_level, mesh_rms : (nb, na) float32, DN
        Sky level and the measured noise of a pixel in each box.
    mesh_variance : (nb, na) float32, DN^2
        Noise variance of a sky pixel that photometry uses: from gain and read noise where they are known, else measured.
    box : int
        Side of a box, pixels.
    shape : (ny, nx)
        Shape of the image.
    empty_boxes : int
        Boxes without enough usable pixels (interpolated).
    """

    mesh_level: np.ndarray
    mesh_rms: np.ndarray
    mesh_variance: np.ndarray
    box: int
    shape: tuple[int, int]
    empty_boxes: int = 0

    @property
    def median_level(self) -> float:
        """Median sky level, DN."""
        return float(np.median(self.mesh_level))

    @property
    def rms_dn(self) -> float:
        """Median measured noise of a sky pixel, DN."""
        return float(np.median(self.mesh_rms))

    @property
    def sigma_dn(self) -> float:
        """Median noise of a sky pixel that photometry uses, DN."""
        return float(np.sqrt(np.median(self.mesh_variance)))

    @property
    def level(self) -> np.ndarray:
        """(ny, nx) float32: the map of the sky level, DN (made anew at each call)."""
        return self._map(self.mesh_level)

    @property
    def rms(self) -> np.ndarray:
        """(ny, nx) float32: the map of the measured noise, DN (made anew at each call)."""
        return self._map(self.mesh_rms)

    def level_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Sky level, DN, at pixel positions (0-based)."""
        return _mesh_at(self.mesh_level, self.box, x, y)

    def variance_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Noise variance of a sky pixel, DN^2, at pixel positions (0-based)."""
        return _mesh_at(self.mesh_variance, self.box, x, y)

    def subtracted(self, pixels: np.ndarray, usable: np.ndarray) -> np.ndarray:
        """(ny, nx) float32: pixels minus sky, DN; 0 where not usable."""
        out = np.empty(pixels.shape, np.float32)
        kernels.subtract_mesh(pixels, usable, self.mesh_level, self.box, out)
        return out

    def corrected(self, residual: np.ndarray, usable: np.ndarray, config: BackgroundConfig) -> np.ndarray:
        """(nb, na) float32, DN: what is left of the sky in an image from which sky and sources were subtracted."""
        level, _ = _measure(residual, usable, config, crowded=False)
        return _smooth(level, config.filter_boxes)[0]

    def _map(self, mesh: np.ndarray) -> np.ndarray:
        out = np.empty(self.shape, np.float32)
        kernels.mesh_image(mesh, self.box, out)
        return out


def estimate(
    pixels: np.ndarray,
    usable: np.ndarray,
    config: BackgroundConfig,
    gain: float | None = None,
    readnoise: float | None = None,
) -> Background:
    """Measure the sky of an image.

    Parameters
    ----------
    pixels : (ny, nx) float32, DN, sky still in
    usable : (ny, nx) bool, False where a pixel says nothing (bad or masked)
    config : mesh parameters
    gain, readnoise : e-/DN and e-; given together they make the noise variance (level / gain + (readnoise / gain)^2),
        else the measured noise is used (images whose sky was subtracted, co-adds)

    Returns
    -------
    Background; an image without usable pixels has level 0 and noise NaN
    """
    level, sigma = _measure(pixels, usable, config)
    empty = int(np.isnan(level).sum())
    smooth_level, smooth_rms = _smooth(level, config.filter_boxes)[0], _smooth(sigma, config.filter_boxes, np.nan)[0]
    variance = smooth_rms**2
    if gain is not None and readnoise is not None:
        variance = np.maximum(smooth_level, 0.0) / gain + (readnoise / gain) ** 2
    variance = np.maximum(np.nan_to_num(variance, nan=1.0), 1e-6).astype(np.float32)
    shape = (pixels.shape[0], pixels.shape[1])
    return Background(smooth_level, smooth_rms, variance, config.box_px, shape, empty)


def _measure(
    pixels: np.ndarray, usable: np.ndarray, config: BackgroundConfig, crowded: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Raw mesh of level and sigma, NaN in empty boxes; `crowded` asks for the mode, else for the (less noisy) mean."""
    box = config.box_px
    mesh = (-(-pixels.shape[0] // box), -(-pixels.shape[1] // box))
    level, sigma = np.empty(mesh, np.float32), np.empty(mesh, np.float32)
    least = max(16, int(config.min_usable_fraction * box * box))
    kernels.box_statistics(pixels, usable, box, config.clip_sigma, least, crowded, level, sigma)
    sigma /= clipped_width(config.clip_sigma)
    return level, sigma


def clipped_width(clip: float) -> float:
    """Standard deviation that iterated clipping at `clip` of its own sigmas leaves of a Gaussian of unit width."""
    width = 1.0
    for _ in range(50):
        k = clip * width
        inside = math.erf(k / math.sqrt(2.0))
        width = math.sqrt(max(1.0 - 2.0 * k * math.exp(-0.5 * k * k) / math.sqrt(2.0 * math.pi) / inside, 1e-6))
    return width


def _smooth(mesh: np.ndarray, side: int, empty: float = 0.0) -> tuple[np.ndarray, int]:
    """Median-filter a mesh, empty boxes filled from their neighbours (or with `empty` when all are)."""
    missing = int(np.isnan(mesh).sum())
    if missing == mesh.size:
        return np.full(mesh.shape, empty, np.float32), missing
    padded = np.pad(mesh.astype(np.float64), (side // 2, side - 1 - side // 2), mode="edge")
    around = sliding_window_view(padded, (side, side)).reshape(*mesh.shape, -1)
    ordered, n = np.sort(around, axis=-1), np.isfinite(around).sum(axis=-1)[..., None]  # NaN come last
    low, high = (np.take_along_axis(ordered, np.maximum(k, 0), -1)[..., 0] for k in ((n - 1) // 2, n // 2))
    filtered = np.where(n[..., 0] > 0, 0.5 * (low + high), np.nanmedian(mesh))
    return filtered.astype(np.float32), missing


def _mesh_at(mesh: np.ndarray, box: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear mesh values at positions; constant beyond the outermost box centres."""
    v = np.clip((np.asarray(y, float) + 0.5) / box - 0.5, 0, mesh.shape[0] - 1)
    u = np.clip((np.asarray(x, float) + 0.5) / box - 0.5, 0, mesh.shape[1] - 1)
    b, a = v.astype(int), u.astype(int)
    b1, a1 = np.minimum(b + 1, mesh.shape[0] - 1), np.minimum(a + 1, mesh.shape[1] - 1)
    fv, fu = v - b, u - a
    lower = (1 - fu) * mesh[b, a] + fu * mesh[b, a1]
    upper = (1 - fu) * mesh[b1, a] + fu * mesh[b1, a1]
    return (1 - fv) * lower + fv * upper
