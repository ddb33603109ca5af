"""All of PSF photometry of one image in a few readable steps; used for science images and co-adds alike."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from ztfds.config.photometry import DetectionConfig, PhotometryConfig
from ztfds.kernels import masks as mask_kernels
from ztfds.kernels.psf import paint
from ztfds.photometry import background as sky
from ztfds.photometry.background import Background
from ztfds.photometry.detection import (
    Detections,
    Shapes,
    find_sources,
    measure_fwhm,
    measure_shapes,
    saturated_cores,
)
from ztfds.photometry.fit import Fitter, PsfPhotometry, saturated_fluxes, saturated_positions
from ztfds.photometry.psf import PsfModel
from ztfds.photometry.psf_build import build_psf
from ztfds.photometry.psf_stars import select_stars
from ztfds.survey import bits

log = logging.getLogger(__name__)

SEEING_BANDS, LEAST_BAND_PX = (
    8,
    100,
)  # the seeing is measured in so many bands of rows, a third of the image, each so high


@dataclass(frozen=True)
class Scene:
    """An image ready for photometry.

    Attributes
    ----------
    data : (ny, nx) float32, DN, sky-subtracted, 0 where unusable
    usable : (ny, nx) bool
    mask : (ny, nx) uint16
    background : Background
    gain, saturate : e-/DN; DN of the image with its sky
    fwhm_px : float, seeing from moments, pixels
    found : Detections, brightest first, edges of saturated cores left out
    shapes : Shapes of the brightest detections
    saturated : (m, 3) float64: x, y, core radius of saturated stars, pixels
    """

    data: np.ndarray
    usable: np.ndarray
    mask: np.ndarray
    background: Background
    gain: float
    saturate: float
    fwhm_px: float
    found: Detections
    shapes: Shapes
    saturated: np.ndarray


def usable_pixels(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(ny, nx) bool: finite pixels without a bit that makes them unusable."""
    good = np.empty(pixels.shape, bool)
    mask_kernels.good_pixels(np.ascontiguousarray(pixels, np.float32), np.ascontiguousarray(mask), bits.HARD_BAD, good)
    return good


def prepare(
    pixels: np.ndarray,
    mask: np.ndarray,
    gain: float,
    readnoise: float | None,
    saturate: float,
    config: PhotometryConfig,
) -> Scene:
    """Sky, seeing and detections of an image.

    Parameters
    ----------
    pixels : (ny, nx) float32, DN;  mask : (ny, nx) uint16
    gain, readnoise : e-/DN, e-; readnoise None takes the noise from the image (co-adds, sky already subtracted)
    saturate : DN, level of saturation (sky included)
    """
    usable = usable_pixels(pixels, mask)
    background = sky.estimate(pixels, usable, config.background, gain if readnoise is not None else None, readnoise)
    data = background.subtracted(pixels, usable)
    fwhm, n_stars = _seeing(data, usable, background, gain, config)
    found = find_sources(data, data, usable, background, gain, fwhm, config.detection, config.detection.limit_snr)
    x, y, core = saturated_cores((mask & np.uint16(bits.SATURATED)) != 0)
    found = found[~saturated_positions(found, x, y, core)]
    bright = found[np.arange(min(len(found), 30 * config.psf.max_stars))]
    shapes = measure_shapes(data, usable, bright, fwhm)
    log.info("%d detections, seeing %.2f px from %d stars, %d saturated stars", len(found), fwhm, n_stars, x.size)
    return Scene(data, usable, mask, background, gain, saturate, fwhm, found, shapes, np.c_[x, y, core])


def _seeing(
    data: np.ndarray, usable: np.ndarray, background: Background, gain: float, config: PhotometryConfig
) -> tuple[float, int]:
    """Seeing (pixels) and the number of stars behind it; from bands across the image where these hold stars enough."""
    settings, ny = config.detection, data.shape[0]
    whole = [slice(0, ny)]
    height = max(ny // (3 * SEEING_BANDS), LEAST_BAND_PX)
    bands = [slice(start, start + height) for start in np.linspace(0, ny - height, SEEING_BANDS).astype(int)]
    for parts in (bands, whole) if height * SEEING_BANDS < ny else (whole,):
        found = [_bright(data[part], usable[part], background, gain, settings, part.start) for part in parts]
        if sum(map(len, found)) >= settings.fwhm_stars:
            break
    joined = Detections(*(np.concatenate(values) for values in zip(*(vars(f).values() for f in found), strict=True)))
    return measure_fwhm(data, usable, joined[np.argsort(-joined.flux, kind="stable")], settings)


def _bright(
    data: np.ndarray,
    usable: np.ndarray,
    background: Background,
    gain: float,
    settings: DetectionConfig,
    first_row: int,
) -> Detections:
    """Bright detections of a part of the image, before the seeing is known."""
    found = find_sources(data, data, usable, background, gain, settings.start_fwhm_px, settings, settings.bright_snr)
    return replace(found, y=found.y + first_row)


def with_mask(scene: Scene, mask: np.ndarray) -> Scene:
    """The same scene after more pixels were masked: they are emptied, and detections on them are dropped."""
    usable = scene.usable.copy()
    mask_kernels.exclude(np.ascontiguousarray(mask), bits.HARD_BAD, usable, scene.data)
    ix = np.clip(np.rint(scene.found.x).astype(int), 0, mask.shape[1] - 1)
    iy = np.clip(np.rint(scene.found.y).astype(int), 0, mask.shape[0] - 1)
    still = usable[iy, ix]
    n = scene.shapes.x.size
    shapes = Shapes(*(values[still[:n]] for values in vars(scene.shapes).values()))
    return replace(scene, usable=usable, mask=mask, found=scene.found[still], shapes=shapes)


def model_psf(scene: Scene, config: PhotometryConfig) -> PsfModel:
    """PSF of a scene from its isolated bright stars; PsfFailed where there are not enough."""
    chosen = _psf_stars(scene, config)
    stars = (scene.shapes.x[chosen], scene.shapes.y[chosen], scene.found.flux[chosen])
    return build_psf(
        scene.data, scene.usable, scene.background, scene.gain, stars, scene.fwhm_px, config.psf, config.fit
    )


def fit_scene(scene: Scene, psf: PsfModel, config: PhotometryConfig) -> tuple[PsfPhotometry, PsfModel]:
    """Fit all sources, find more on the residual image, and in dense fields make the PSF again without neighbours.

    The scene's data array is used up (sky corrections are applied to it). Returns the photometry and the final PSF.
    """
    fitter = Fitter(scene.data, scene.usable, scene.background, psf, scene.gain, config)
    x, y, core = scene.saturated.T
    wings = saturated_fluxes(scene.data, scene.usable, psf, x, y, core)
    fitter.add(x[wings > 0], y[wings > 0], wings[wings > 0], core[wings > 0])
    fitter.add(scene.found.x, scene.found.y, scene.found.flux)
    fitter.converge()
    fitter.subtract_wings()
    fitter.correct_sky()
    dense = len(fitter.sources) > config.psf.rebuild_density * scene.data.size
    again = dense or psf.error > config.psf.rebuild_error
    for turn in range(config.fit.rounds if again else 1):
        if fitter.find_more():
            fitter.converge(everything=False)
        if turn == 0 and again:
            fitter.set_psf(_rebuilt(scene, fitter, config))
            fitter.converge()
    fitter.join_extended()
    if again:
        fitter.subtract_wings()
        fitter.correct_sky()
    fitter.converge()
    return fitter.finish(scene.mask), replace(fitter.psf, wings=fitter.wings)


def _psf_stars(scene: Scene, config: PhotometryConfig) -> np.ndarray:
    """Indices of PSF stars in scene.found."""
    limit = config.psf.saturation_margin * scene.saturate - scene.background.level_at(scene.shapes.x, scene.shapes.y)
    return select_stars(scene.data, scene.usable, scene.found, scene.shapes, limit, scene.saturated[:, :2], config.psf)


def _close_pairs(fitter: Fitter, which: np.ndarray, config: PhotometryConfig) -> np.ndarray:
    """True for sources with a fitted neighbour so near and bright that the split between the two depends on the PSF."""
    s, reach = fitter.sources, config.psf.pair_fwhm * fitter.psf.fwhm_px
    near = cKDTree(np.c_[s.x, s.y]).query_ball_point(np.c_[s.x[which], s.y[which]], reach)
    limit = config.psf.isolation_flux_ratio * s.flux[which]
    return np.array([(s.flux[members] > low).sum() > 1 for members, low in zip(near, limit, strict=True)], bool)


def _rebuilt(scene: Scene, fitter: Fitter, config: PhotometryConfig) -> PsfModel:
    """PSF once more, from the image with everything but the PSF stars subtracted."""
    chosen = _psf_stars(scene, config)
    s = fitter.sources
    if chosen.size < config.psf.min_stars or len(s) == 0:
        return fitter.psf
    near, which = cKDTree(np.c_[s.x, s.y]).query(np.c_[scene.shapes.x[chosen], scene.shapes.y[chosen]])
    which = np.unique(which[near < 1.0])
    single = which[~_close_pairs(fitter, which, config)]
    which = single if single.size >= config.psf.wanted_stars else which
    if which.size < config.psf.min_stars:
        return fitter.psf
    alone = fitter.residual.copy()
    wanted = np.zeros(len(s), bool)
    wanted[which] = True
    paint(alone, fitter.phased, s.x, s.y, s.flux, s.radius, wanted, 1.0)
    stars = (s.x[which], s.y[which], s.flux[which])
    return build_psf(
        alone, scene.usable, fitter.background, scene.gain, stars, fitter.psf.fwhm_px, config.psf, config.fit
    )
