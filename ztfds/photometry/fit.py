"""Simultaneous PSF photometry: all sources fitted against one residual image, new ones found on it, errors with blends."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ztfds.config.photometry import PhotometryConfig
from ztfds.formats.tables import PSFCAT_DTYPE
from ztfds.kernels import background as background_kernels
from ztfds.kernels import psf as kernels
from ztfds.kernels.psf_errors import fit_quality
from ztfds.photometry.background import Background
from ztfds.photometry.detection import Detections, find_sources
from ztfds.photometry.psf import PsfModel
from ztfds.photometry.psf_build import fit_radius
from ztfds.photometry.wings import EDGE_PX, first_guess, measure_wings
from ztfds.survey import bits

log = logging.getLogger(__name__)

LEAST_PAINT_PX = 5.0
WING_REACH_PX = 40.0
SATURATED_TRUST = 0.3
WING_SIGMAS = 0.05  # wings are subtracted down to this many sigmas of a sky pixel: hundreds of pixels share them
MERGE_TURNS = 3  # sweeps and mergers in turn, at most
SWARM_CHI, SWARM_SHARP, SWARM_FWHM = (
    1.2,
    0.25,
    2.5,
)  # chi, sharp (pixels^2) and distance (FWHM) of the parts of a galaxy
BLEND_FWHM = 2.2  # neighbours farther than this, in FWHM, do not share the light that a source's flux is known from


@dataclass
class Sources:
    """Sources while they are fitted; all arrays (n,) float64 except alive.

    x, y: pixels; flux, error: DN; sky: sky variance, DN^2; fit_radius, radius: pixels fitted and painted; alive: bool.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    sky: np.ndarray
    fit_radius: np.ndarray
    radius: np.ndarray
    alive: np.ndarray

    def __len__(self) -> int:
        return self.x.size

    def keep(self, chosen: np.ndarray) -> Sources:
        """The chosen ones (boolean or index array)."""
        return Sources(*(values[chosen] for values in vars(self).values()))

    def joined(self, other: Sources) -> Sources:
        """Both lists, one after the other."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Sources(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class PsfPhotometry:
    """Result of the fit.

    Attributes
    ----------
    catalog : structured array of PSFCAT_DTYPE, brightest first. xpos, ypos: pixels, 0-based; ra, dec: deg, NaN before
        astrometry; flux, sigflux: DN; mag: instrumental, -2.5 log10(flux / DN); chi; sharp: pixels^2; flags: -1 near an
        edge, else the OR of the mask over 5 x 5 pixels
    x_error, y_error : (n,) float64, pixels, 1 sigma, aligned with the catalog
    residual : (ny, nx) float32, DN: image minus sky minus all models; 0 where unusable
    background : Background, corrected with the sky left under the subtracted sources
    sweeps : int, sweeps done
    """

    catalog: np.ndarray
    x_error: np.ndarray
    y_error: np.ndarray
    residual: np.ndarray
    background: Background
    sweeps: int


class Fitter:
    """The state of a simultaneous fit: sky-subtracted image, residual image, sources.

    Parameters
    ----------
    data : (ny, nx) float32, DN, sky-subtracted, 0 where unusable; the fitter takes it over (sky corrections are applied)
    usable : (ny, nx) bool
    background : sky of the image
    psf : PSF model
    gain : e-/DN
    config : photometry parameters
    """

    def __init__(
        self,
        data: np.ndarray,
        usable: np.ndarray,
        background: Background,
        psf: PsfModel,
        gain: float,
        config: PhotometryConfig,
    ) -> None:
        self.data, self.usable, self.background, self.gain, self.config = data, usable, background, gain, config
        self.residual = np.empty_like(data)
        self.due = np.zeros(tuple(-(-side // kernels.CELL) for side in data.shape), np.uint8)
        self.sources = self._new(np.empty(0), np.empty(0), np.empty(0))
        self.sweeps = 0
        self.wings = first_guess(psf.edge_value())
        self.winged = (np.empty(0), np.empty(0), np.empty(0))
        self.set_psf(psf)

    def set_psf(self, psf: PsfModel) -> None:
        """Use another PSF; the residual image is made anew."""
        self.psf, self.phased = psf, psf.phased
        self.reach = fit_radius(psf.fwhm_px, self.config.fit)
        self.model_error = max(self.config.fit.model_error_floor, psf.error)
        self.repaint()

    def repaint(self) -> None:
        """Residual image from scratch: rounding errors of many small steps vanish."""
        s = self.sources
        np.copyto(self.residual, self.data)
        kernels.paint(self.residual, self.phased, s.x, s.y, s.flux, s.radius, s.alive, -1.0)

    def add(self, x: np.ndarray, y: np.ndarray, flux: np.ndarray, core: np.ndarray | None = None) -> int:
        """New sources at positions (pixels) with first fluxes (DN); `core`: radius of a saturated core, pixels.

        Positions nearer than the merging distance to an existing source are left out; the others are due in the next sweep.
        Returns how many were added.
        """
        core = np.zeros(x.size) if core is None else core
        if len(self.sources) and x.size:
            near, _ = cKDTree(np.c_[self.sources.x, self.sources.y]).query(np.c_[x, y])
            fresh = near > np.maximum(self.config.fit.merge_fwhm * self.psf.fwhm_px, core)
            x, y, flux, core = x[fresh], y[fresh], flux[fresh], core[fresh]
        new = self._new(x, y, np.maximum(flux, 1e-3), core)
        kernels.paint(self.residual, self.phased, new.x, new.y, new.flux, new.radius, new.alive, -1.0)
        self._wake(new.x, new.y)
        self.sources = self.sources.joined(new)
        self.sources = self.sources.keep(tile_order(self.sources, self.data.shape))
        return int(x.size)

    def _wake(self, x: np.ndarray, y: np.ndarray) -> None:
        """The cells of these positions (pixels) are due in the next sweep."""
        rows = np.clip(y // kernels.CELL, 0, self.due.shape[0] - 1).astype(int)
        self.due[rows, np.clip(x // kernels.CELL, 0, self.due.shape[1] - 1).astype(int)] = 1

    def converge(self, everything: bool = True) -> None:
        """Sweep over what is due, or over everything, until nothing changes (or config.fit.sweeps times); join what meets."""
        if everything:
            self.due[:] = 1
        for _ in range(MERGE_TURNS):
            self._sweep()
            if self._merge() == 0:
                break
        self.due[:] = 0

    def _sweep(self) -> None:
        """Sweeps over what is due; sources that died are gone afterwards."""
        s, fit = self.sources, self.config.fit
        due, following = self.due, np.zeros_like(self.due)
        for _ in range(fit.sweeps):
            worked = kernels.fit_sweep(
                self.data, self.residual, self.usable, self.phased, s.x, s.y, s.flux, s.error, s.sky, s.fit_radius,
                s.radius, s.alive, due, following, self.gain, self.model_error, fit.keep_snr, LEAST_PAINT_PX,
                fit.paint_scale,
            )  # fmt: skip
            self.sweeps += 1
            due, following = following, due
            if worked == 0:
                break
        self.due[:] = 0
        self.sources = s.keep(s.alive)

    def _blank(self) -> None:
        """No light in unusable pixels of the residual image: models are subtracted there too, from nothing."""
        np.copyto(self.residual, np.float32(0.0), where=~self.usable)

    def correct_sky(self) -> None:
        """Measure the sky again under the subtracted sources and take it out of both images."""
        b = self.background
        left = b.corrected(self.residual, self.usable, self.config.background)
        background_kernels.subtract_mesh(self.data, self.usable, left, b.box, self.data)
        background_kernels.subtract_mesh(self.residual, self.usable, left, b.box, self.residual)
        level = b.mesh_level + left
        self.background = Background(level, b.mesh_rms, b.mesh_variance, b.box, b.shape, b.empty_boxes)

    def subtract_wings(self) -> None:
        """Measure the light beyond the PSF's stamp around bright stars, and take it out of both images."""
        self._put_back_wings((self.data, self.residual))
        s, sigma = self.sources, self.background.sigma_dn
        self._blank()
        self.wings = measure_wings(self.residual, self.usable, s.x, s.y, s.flux, sigma, self.wings)
        bright = self.wings.reach(s.flux, WING_SIGMAS * sigma) > EDGE_PX
        self.winged = (s.x[bright], s.y[bright], s.flux[bright])
        for image in (self.data, self.residual):
            self.wings.paint(image, *self.winged, -1.0, WING_SIGMAS * sigma)

    def _put_back_wings(self, images: tuple[np.ndarray, ...]) -> None:
        """Images with the wings in."""
        for image in images:
            self.wings.paint(image, *self.winged, 1.0, WING_SIGMAS * self.background.sigma_dn)
        self.winged = (np.empty(0), np.empty(0), np.empty(0))

    def find_more(self) -> int:
        """Detect on the residual image and add what is found; returns how many."""
        limit = self.config.detection.residual_snr
        self._blank()
        found = find_sources(
            self.residual,
            self.data,
            self.usable,
            self.background,
            self.gain,
            self.psf.fwhm_px,
            self.config.detection,
            limit,
            flat=True,
        )
        found = found[self._above_wings(found)]
        return self.add(found.x, found.y, found.flux)

    def _above_wings(self, found: Detections) -> np.ndarray:
        """True for detections that stand out over what bright stars leave behind.

        Beyond 12 pixels the PSF ends and its profile is taken to fall with the third power of the distance; around
        saturated cores the model rests on wings alone and is trusted to SATURATED_TRUST of its value.
        """
        s, profile = self.sources, self.psf.radial_profile()
        edge = max(float(profile[-1]), 0.0)
        bright = np.flatnonzero((s.flux * edge > 0.3 * np.sqrt(s.sky)) | (s.fit_radius > self.reach))
        if len(found) == 0 or bright.size == 0:
            return np.ones(len(found), bool)
        wings = np.zeros(len(found))
        near = cKDTree(np.c_[found.x, found.y]).query_ball_point(np.c_[s.x[bright], s.y[bright]], WING_REACH_PX)
        for k, members in zip(bright, near, strict=True):
            distance = np.hypot(found.x[members] - s.x[k], found.y[members] - s.y[k])
            inside = (
                SATURATED_TRUST * np.interp(distance, np.arange(profile.size), profile) * (s.fit_radius[k] > self.reach)
            )
            outside = edge * (kernels.RADIUS / np.maximum(distance, 1.0)) ** 3
            wings[members] += s.flux[k] * np.where(distance > kernels.RADIUS, outside, inside)
        return np.asarray(found.flux * profile[0] > wings)

    def join_extended(self) -> int:
        """Galaxies were fitted as swarms of points: the brightest of each swarm stays; returns how many others went.

        A swarm is a group of sources that are all broader than the PSF and badly fitted by it, each within SWARM_FWHM of the
        next; with them go fainter ones among them that are not narrower than the PSF.
        """
        s, quality = self.sources, self._quality(errors=False)
        broad = (quality[:, 3] > SWARM_CHI) & (quality[:, 4] > SWARM_SHARP)
        reach = SWARM_FWHM * self.psf.fwhm_px
        members = np.flatnonzero(broad)
        if members.size < 2:
            return 0
        pairs = cKDTree(np.c_[s.x[members], s.y[members]]).query_pairs(reach, output_type="ndarray")
        links = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(members.size, members.size))
        _, group = connected_components(links, directed=False)
        swarm = np.bincount(group)[group] > 1
        members, group = members[swarm], group[swarm]
        if members.size == 0:
            return 0
        brightest = np.zeros(group.max() + 1)
        np.maximum.at(brightest, group, s.flux[members])
        near, which = cKDTree(np.c_[s.x[members], s.y[members]]).query(np.c_[s.x, s.y])
        gone = (near < reach) & (s.flux < brightest[group[which]]) & (broad | (quality[:, 4] > 0.0))
        self._remove(gone)
        return int(gone.sum())

    def _remove(self, gone: np.ndarray) -> None:
        """Take sources out of the list and their light back into the residual image; what is around is due."""
        s = self.sources
        kernels.paint(self.residual, self.phased, s.x, s.y, s.flux, s.radius, gone, 1.0)
        self._wake(s.x[gone], s.y[gone])
        self.sources = s.keep(~gone)

    def _quality(self, errors: bool = True) -> np.ndarray:
        """(n, 6) float64 of `kernels.psf_errors.fit_quality` of all sources; without `errors` only chi and sharp."""
        s = self.sources
        start, items = np.zeros(len(s) + 1, np.int64), np.empty(0, np.int64)
        if errors:
            start, items = neighbour_lists(s.x, s.y, BLEND_FWHM * self.psf.fwhm_px)
        quality = np.empty((len(s), 6))
        fit_quality(
            self.data, self.residual, self.usable, self.phased, s.x, s.y, s.flux, s.sky, s.fit_radius, start, items,
            self.gain, self.model_error, errors, quality,
        )  # fmt: skip
        return quality

    def finish(self, mask: np.ndarray) -> PsfPhotometry:
        """Errors, chi, sharp, flags: the catalog. Its fluxes include the light beyond the PSF's stamp."""
        self.repaint()
        self._blank()
        s, quality = self.sources, self._quality()
        self._put_back_wings((self.data,))
        floor = self.config.fit.flux_error_floor * s.flux
        sigma = np.hypot(np.where(np.isfinite(quality[:, 0]), quality[:, 0], s.error), floor)
        whole = 1.0 + self.wings.outside()
        flux = whole * without_position_bias(s.flux, sigma)
        order = np.argsort(-flux, kind="stable")
        order = order[s.flux[order] >= self.config.fit.catalog_snr * sigma[order]]
        catalog = np.zeros(order.size, PSFCAT_DTYPE)
        catalog["sourceid"] = np.arange(order.size)
        catalog["xpos"], catalog["ypos"] = s.x[order], s.y[order]
        catalog["ra"] = catalog["dec"] = np.nan
        catalog["flux"], catalog["sigflux"] = flux[order], whole * sigma[order]
        catalog["mag"] = -2.5 * np.log10(flux[order])
        catalog["snr"] = flux[order] / (whole * sigma[order])
        catalog["sigmag"] = 2.5 / np.log(10.0) / catalog["snr"]
        catalog["chi"], catalog["sharp"] = quality[order, 3], quality[order, 4]
        catalog["flags"] = source_flags(mask, s.x[order], s.y[order], self.config.fit.edge_px)
        return PsfPhotometry(catalog, quality[order, 1], quality[order, 2], self.residual, self.background, self.sweeps)

    def _new(self, x: np.ndarray, y: np.ndarray, flux: np.ndarray, core: np.ndarray | None = None) -> Sources:
        sky = self.background.variance_at(x, y)
        fit = self.config.fit
        core = np.zeros(x.size) if core is None else core
        reach = getattr(self, "reach", 5.0)
        wide = np.where(core > 0, np.minimum(core + fit.saturated_fit_px, 11.0), reach)
        radius = np.floor(fit.paint_scale * np.sqrt(np.maximum(flux, 0.0) / np.sqrt(sky)))
        radius = np.clip(np.maximum(radius, wide), LEAST_PAINT_PX, kernels.RADIUS)
        return Sources(
            x.astype(float),
            y.astype(float),
            flux.astype(float),
            np.zeros(x.size),
            sky,
            wide,
            radius,
            np.ones(x.size, bool),
        )

    def _merge(self) -> int:
        """Sources that moved onto each other: the fainter one goes and its neighbour is due again; how many went."""
        s = self.sources
        if len(s) < 2:
            return 0
        pairs = cKDTree(np.c_[s.x, s.y]).query_pairs(
            self.config.fit.merge_fwhm * self.psf.fwhm_px, output_type="ndarray"
        )
        if len(pairs) == 0:
            return 0
        fainter = np.unique(np.where(s.flux[pairs[:, 0]] < s.flux[pairs[:, 1]], pairs[:, 0], pairs[:, 1]))
        gone = np.zeros(len(s), bool)
        gone[fainter] = True
        self._remove(gone)
        return int(gone.sum())


def without_position_bias(flux: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Fluxes without the light that noise adds because the position follows it.

    A fit with free x and y ends where flux^2 / sigma^2 is largest; that maximum exceeds its value at the true place by chi
    square of two degrees of freedom, 2 on average, so sqrt(flux^2 - 2 sigma^2) is unbiased to this order.
    """
    return np.asarray(flux * np.sqrt(np.maximum(1.0 - 2.0 * (sigma / flux) ** 2, 0.25)))


def tile_order(sources: Sources, shape: tuple[int, int]) -> np.ndarray:
    """Indices that put sources in the order of the PSF's tiles, brightest first in each: neighbours in memory as on the sky."""
    ny, nx = shape
    tiles = kernels.TILES
    row, column = (sources.y * tiles / ny).astype(int), (sources.x * tiles / nx).astype(int)
    return np.lexsort((-sources.flux, column, row))


def neighbour_lists(x: np.ndarray, y: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours within `radius` pixels: those of source s are items[start[s]:start[s + 1]] (int64)."""
    start = np.zeros(x.size + 1, np.int64)
    if x.size < 2:
        return start, np.empty(0, np.int64)
    pairs = cKDTree(np.c_[x, y]).query_pairs(radius, output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]]).astype(np.int64)
    both = both[np.argsort(both[:, 0], kind="stable")]
    start[1:] = np.cumsum(np.bincount(both[:, 0], minlength=x.size))
    return start, np.ascontiguousarray(both[:, 1])


def source_flags(mask: np.ndarray, x: np.ndarray, y: np.ndarray, edge_px: int) -> np.ndarray:
    """-1 within `edge_px` pixels of the image's edge, else the OR of the mask (without source bits) over 5 x 5 pixels."""
    ny, nx = mask.shape
    ix, iy = np.rint(x).astype(int), np.rint(y).astype(int)
    edge = (ix < edge_px) | (iy < edge_px) | (ix >= nx - edge_px) | (iy >= ny - edge_px)
    flags = np.zeros(x.size, np.int32)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            flags |= mask[np.clip(iy + dy, 0, ny - 1), np.clip(ix + dx, 0, nx - 1)].astype(np.int32)
    return np.where(edge, -1, flags & bits.BAD_TEMPLATE).astype(np.int32)


def saturated_fluxes(
    data: np.ndarray, usable: np.ndarray, psf: PsfModel, x: np.ndarray, y: np.ndarray, core: np.ndarray
) -> np.ndarray:
    """First fluxes (DN) of saturated stars from the wings outside their cores: median of pixel / PSF in a ring."""
    fluxes = np.zeros(x.size)
    ny, nx = data.shape
    for k in range(x.size):
        px, py = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
        stamp = psf.stamp(x[k], y[k], dx=float(np.clip(x[k] - px, -0.5, 0.5)), dy=float(np.clip(y[k] - py, -0.5, 0.5)))
        rows, columns = np.mgrid[py - 12 : py + 13, px - 12 : px + 13]
        distance = np.hypot(rows - y[k], columns - x[k])
        inside = (rows >= 0) & (columns >= 0) & (rows < ny) & (columns < nx)
        inside &= (distance < core[k] + 4.0) & (stamp > 1e-5)
        inside[inside] &= usable[rows[inside], columns[inside]]
        if inside.sum() >= 8:
            fluxes[k] = np.median(data[rows[inside], columns[inside]] / stamp[inside])
    return fluxes


def saturated_positions(found: Detections, x: np.ndarray, y: np.ndarray, core: np.ndarray) -> np.ndarray:
    """True for detections that are mere edges of saturated cores (within the core's radius plus two pixels)."""
    if x.size == 0 or len(found) == 0:
        return np.zeros(len(found), bool)
    distance, nearest = cKDTree(np.c_[x, y]).query(np.c_[found.x, found.y])
    return np.asarray(distance < core[nearest] + 2.0)
