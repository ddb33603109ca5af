"""Rendering of one exposure: the scene of a quadrant under its conditions, then the detector, with the truth beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from ztfds.simulator import events, kernels
from ztfds.simulator.camera import READOUT_S, Quadrant, quadrant, radiation
from ztfds.simulator.optics import PsfField, TrueWcs, distortion, true_wcs
from ztfds.simulator.schedule import Conditions, Plan, PlannedExposure, conditions
from ztfds.simulator.sky import propagate, sky_patch, variability
from ztfds.simulator.truth import TRUTH, truth_rows
from ztfds.survey import camera as survey_camera
from ztfds.survey.detector import READ_NOISE_E

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_BANDS = "gri"
_MARGIN_PX = 60.0
_HALO_RADIUS_PX, _GHOST_OUTER_PX, _GHOST_INNER_PX = 364.0, 130.0, 55.0
_FAINT_DN = 0.03
TRUTH_SNR = 3.0
"""Sources that are not events are left out of truth tables below this S/N."""


@dataclass(frozen=True)
class Scene:
    """The noiseless sky on one quadrant.

    Attributes
    ----------
    image : (ny, nx) float32
        DN of a perfect detector, sky included.
    truth : structured array
        Everything painted (dtype `truth.TRUTH`).
    wcs : TrueWcs
    psf : PsfField
    conditions : Conditions
    """

    image: F32
    truth: NDArray[np.void]
    wcs: TrueWcs
    psf: PsfField
    conditions: Conditions


@dataclass(frozen=True)
class Rendered:
    """Raw counts of one quadrant and what is in them."""

    pixels: NDArray[np.uint16]
    overscan: NDArray[np.uint16]
    scene: Scene | None
    truth: NDArray[np.void]


def exposure_rng(plan: Plan, exposure: PlannedExposure, rcid: int, what: int) -> np.random.Generator:
    """Fast generator of everything random in one exposure and readout channel."""
    return np.random.Generator(np.random.SFC64([plan.seed, what, exposure.key, rcid]))


def detector_of(plan: Plan, rcid: int) -> Quadrant:
    """The readout channel of the plan's camera."""
    c = plan.camera
    return quadrant(plan.seed, rcid, c.quadrant_shape, c.overscan_columns, plan.config.detector)


def render(plan: Plan, exposure: PlannedExposure, rcid: int, extra_cloud_mag: float = 0.0) -> Rendered:
    """Raw counts, overscan and truth of one quadrant of any planned exposure."""
    detector, rng = detector_of(plan, rcid), exposure_rng(plan, exposure, rcid, 61)
    if exposure.kind == "o":
        scene = make_scene(plan, exposure, rcid, extra_cloud_mag=extra_cloud_mag)
        image, truth = scene.image, scene.truth
        detector.respond(image, exposure.fid, exposure.exptime)
    else:
        scene, truth = None, np.zeros(0, TRUTH)
        image = _calibration_light(plan, exposure, detector, rng)
    hits = radiation(image, rng, plan.config.detector, exposure.exptime + READOUT_S, detector.gain)
    truth = _with_hits(truth, hits, detector)
    pixels, overscan = detector.read(image, rng, exposure.jd - 2400000.5)
    well = np.float32(0.97 * detector.well)
    truth["near_saturated"] = [_near(image, row["x"], row["y"], well) for row in truth]
    return Rendered(pixels, overscan, scene, truth)


def _calibration_light(plan: Plan, exposure: PlannedExposure, detector: Quadrant, rng: np.random.Generator) -> F32:
    """Mean signal of a bias (hot pixels only) or of a flat (an uneven lamp whose level wanders by 2 %)."""
    if exposure.kind == "b":
        image = np.zeros(plan.camera.quadrant_shape, np.float32)
        detector.heat(image, 0.0)
        return image
    common = np.random.default_rng([plan.seed, 44, exposure.key])
    level = plan.config.detector.flat_level_dn * (1 + 0.02 * common.normal()) * detector.efficiency
    image = np.full(plan.camera.quadrant_shape, level, np.float32)
    kernels.apply_response(image, np.uint64(0), np.float32(0), detector.lamp(exposure.fid))
    detector.respond(image, exposure.fid, exposure.exptime)
    return image


def make_scene(
    plan: Plan,
    exposure: PlannedExposure,
    rcid: int,
    *,
    with_events: bool = True,
    extra_cloud_mag: float = 0.0,
    least_snr: float = TRUTH_SNR,
) -> Scene:
    """Paint the sky of one quadrant without any noise.

    Parameters
    ----------
    with_events : bool
        False leaves out supernovae, asteroids, fast movers and satellite trails.
    extra_cloud_mag : float
        Grey cloud on top of the night's weather.
    least_snr : float
        Faintest source, not an event, that gets a truth row.
    """
    state = conditions(plan, exposure, extra_cloud_mag)
    image = _background(plan, state)
    painter = _painter(plan, exposure, state, rcid, image)
    painter.least_snr = least_snr
    wcs, psf = painter.wcs, painter.psf
    stars, galaxies = sky_patch(plan.seed, wcs.ra0, wcs.dec0, _sky_radius(plan), plan.config.sky)
    painter.stars(stars)
    painter.galaxies(galaxies)
    if with_events:
        painter.transients(events.transients(plan))
        painter.asteroids()
        painter.fast_movers(events.fast_movers(plan))
        painter.trails(survey_camera.ccd_qid(rcid))
    truth = np.concatenate(painter.rows) if painter.rows else np.zeros(0, TRUTH)
    truth["rcid"], truth["qid"] = rcid, survey_camera.ccd_qid(rcid)[1]
    return Scene(image, truth, wcs, psf, state)


def reflections(plan: Plan, exposure: PlannedExposure, rcid: int, extra_cloud_mag: float = 0.0) -> F32:
    """The light of halos and pupil ghosts alone on one quadrant; (ny, nx) float32, DN of a perfect detector."""
    state = conditions(plan, exposure, extra_cloud_mag)
    painter = _painter(plan, exposure, state, rcid, np.zeros(plan.camera.quadrant_shape, np.float32))
    stars, _ = sky_patch(plan.seed, painter.wcs.ra0, painter.wcs.dec0, _sky_radius(plan), plan.config.sky)
    painter.reflections_of(stars)
    return painter.image


def _sky_radius(plan: Plan) -> float:
    """Radius (degrees) about a quadrant's centre within which stars throw light into it."""
    return plan.camera.radius_deg() + _MARGIN_PX * 6 / 3600.0 + 0.01


def _painter(plan: Plan, exposure: PlannedExposure, state: Conditions, rcid: int, image: F32) -> _Painter:
    """The painter of one quadrant on an image."""
    psf = PsfField(plan.seed, rcid, plan.camera.quadrant_shape, state.seeing, plan.config.optics)
    wcs = quadrant_wcs(plan, state, rcid)
    return _Painter(plan, exposure, state, wcs, psf, image, detector_of(plan, rcid).efficiency)


def quadrant_wcs(plan: Plan, state: Conditions, rcid: int) -> TrueWcs:
    """True mapping of a quadrant under given conditions."""
    optics, (ccdid, qid) = plan.config.optics, survey_camera.ccd_qid(rcid)
    pv = distortion(plan.seed, rcid, optics.distortion_quadratic, optics.distortion_cubic)
    return true_wcs(
        state.pointing,
        state.rotation_deg,
        state.scale_arcsec,
        plan.camera.quadrant_centre_deg(ccdid, qid),
        plan.camera.quadrant_shape,
        pv,
    )


def _background(plan: Plan, state: Conditions) -> F32:
    ny, nx = plan.camera.quadrant_shape
    gx = 1 + state.gradient[0] * np.linspace(-1, 1, nx)
    gy = state.sky_dn * (1 + state.gradient[1] * np.linspace(-1, 1, ny))
    return np.multiply.outer(gy, gx).astype(np.float32)


def _near(image: F32, x: float, y: float, well: np.float32, half: int = 12) -> bool:
    jx, jy = round(float(x)), round(float(y))
    part = image[max(0, jy - half) : max(0, jy + half + 1), max(0, jx - half) : max(0, jx + half + 1)]
    return bool(part.size) and bool(part.max() > well)


def _with_hits(
    truth: NDArray[np.void], hits: list[tuple[float, float, float, float, float, int]], detector: Quadrant
) -> NDArray[np.void]:
    """Add the radiation hits as rows, and count hits and defects in the 5 x 5 pixels of everything that matters."""
    table = truth_rows(len(hits), "radiation")
    for row, (x, y, x2, y2, flux, _) in zip(table, hits, strict=True):
        row["x"], row["y"], row["x2"], row["y2"], row["flux"] = x, y, x2, y2, flux
    table["rcid"], table["qid"] = detector.rcid, detector.qid
    for row in truth:
        if row["kind"] in ("transient", "asteroid", "fast"):
            row["defects"] = detector.defects.near(row["x"], row["y"])
            row["hits"] = sum(
                min(a, c) - 3 < row["x"] < max(a, c) + 3 and min(b, d) - 3 < row["y"] < max(b, d) + 3
                for a, b, c, d, _, _ in hits
            )
    return np.concatenate([truth, table])


def _clip(
    xa: float, ya: float, xb: float, yb: float, x0: float, x1: float, y0: float, y1: float
) -> tuple[float, float]:
    """Range of the parameter (0 at a, 1 at b) for which a segment lies in a box (Liang & Barsky 1984); empty: 1, 0."""
    start, end = 0.0, 1.0
    for a, d, low, high in ((xa, xb - xa, x0, x1), (ya, yb - ya, y0, y1)):
        if d == 0.0:
            if not low <= a <= high:
                return 1.0, 0.0
            continue
        t0, t1 = sorted(((low - a) / d, (high - a) / d))
        start, end = max(start, t0), min(end, t1)
    return start, end


class _Painter:
    """Paints one kind of source after another on one quadrant and keeps the truth rows."""

    def __init__(
        self,
        plan: Plan,
        exposure: PlannedExposure,
        state: Conditions,
        wcs: TrueWcs,
        psf: PsfField,
        image: F32,
        efficiency: float,
    ) -> None:
        self.plan, self.exposure, self.state, self.wcs, self.psf, self.image = plan, exposure, state, wcs, psf, image
        self.band = _BANDS[exposure.fid - 1]
        self.jd = exposure.jd + exposure.exptime / 2 / 86400.0
        self.zeropoint = state.zeropoint + 2.5 * np.log10(efficiency)
        self.rows: list[NDArray[np.void]] = []
        self.least_snr = TRUTH_SNR
        centre = plan.camera.centre_pixel
        self._area = psf.noise_area(*centre)
        self._peak = float(psf.shapes(np.array([centre[0]]), np.array([centre[1]]))[0, 3])

    def flux(self, mag: F64, colour: F64) -> F64:
        """DN in the exposure: m_PS1 = m_inst + zp + c colour, m_inst = -2.5 log10(flux)."""
        c = self.plan.config.optics.colour_term[self.exposure.fid - 1]
        return 10 ** (-0.4 * (mag - self.zeropoint - c * colour))

    def colour(self, table: NDArray[np.void]) -> F64:
        """The calibration colour of the filter, g-r or r-i."""
        a, b = ("g", "r") if self.exposure.fid < 3 else ("r", "i")
        return (table[a] - table[b]).astype(float)

    def stars(self, table: NDArray[np.void]) -> None:
        """Stars with their proper motions and variability; halos and ghosts of the brightest."""
        ra, dec = propagate(table, self.jd)
        x, y = self.wcs.to_pixel(ra, dec)
        mag = table[self.band] + variability(table, self.jd)
        colour = self.colour(table)
        flux = self.flux(mag, colour)
        self._reflections(x, y, mag, flux)
        keep = self._paint_points(x, y, flux)
        kind = np.where(table["var_kind"] > 0, "variable", "star")
        self._note(
            kind[keep], table["id"][keep], x[keep], y[keep], ra[keep], dec[keep], mag[keep], colour[keep], flux[keep]
        )

    def reflections_of(self, table: NDArray[np.void]) -> None:
        """Only the halos and ghosts of stars."""
        x, y = self.wcs.to_pixel(*propagate(table, self.jd))
        mag = table[self.band] + variability(table, self.jd)
        self._reflections(x, y, mag, self.flux(mag, self.colour(table)))

    def _paint_points(self, x: F64, y: F64, flux: F64) -> NDArray[np.bool_]:
        """Paint all sources whose light reaches the quadrant; returns which have their centre on it."""
        ny, nx = self.image.shape
        near = (x > -400) & (y > -400) & (x < nx + 400) & (y < ny + 400) & (flux > 0)
        px, py, pf = np.ascontiguousarray(x[near]), np.ascontiguousarray(y[near]), flux[near].astype(np.float32)
        shapes = self.psf.shapes(px, py)
        kernels.paint_points(self.image, px, py, pf, self.psf.radii(pf, shapes, _FAINT_DN), shapes)
        return (x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5) & (flux > 0)

    def _reflections(self, x: F64, y: F64, mag: F64, flux: F64) -> None:
        """Halos about, and displaced pupil ghosts of, stars brighter than the ghost limit."""
        ccdid, qid = survey_camera.ccd_qid(self.rcid)
        xi, eta = self.plan.camera.quadrant_centre_deg(ccdid, qid)
        scale = 3600.0 / self.plan.camera.pixel_scale_arcsec
        cx, cy = self.plan.camera.centre_pixel
        for k in np.flatnonzero(mag < self.plan.config.optics.ghost_mag):
            kernels.paint_ring(self.image, x[k], y[k], 0.0, _HALO_RADIUS_PX, 0.008 * flux[k])
            # The filter sends light back a little farther from the optical axis (+x is west, +y south).
            gx, gy = x[k] + 0.012 * (x[k] - cx - xi * scale), y[k] + 0.012 * (y[k] - cy - eta * scale)
            kernels.paint_ring(self.image, gx, gy, _GHOST_INNER_PX, _GHOST_OUTER_PX, 0.002 * flux[k])

    @property
    def rcid(self) -> int:
        """Readout channel that is painted."""
        return self.psf.rcid

    def galaxies(self, table: NDArray[np.void]) -> None:
        """Galaxies: exponential discs and de Vaucouleurs spheroids."""
        x, y = self.wcs.to_pixel(table["ra"], table["dec"])
        ny, nx = self.image.shape
        near = (x > -_MARGIN_PX) & (y > -_MARGIN_PX) & (x < nx + _MARGIN_PX) & (y < ny + _MARGIN_PX)
        table, x, y = table[near], np.ascontiguousarray(x[near]), np.ascontiguousarray(y[near])
        colour = self.colour(table)
        flux = self.flux(table[self.band].astype(float), colour)
        shapes = self.psf.shapes(x, y)
        # Position angle from north (-y) through east (-x); the kernel counts from +x to +y.
        angle = (-(np.pi / 2 + table["pa"])).astype(np.float32)
        re = (table["re"] / self.plan.camera.pixel_scale_arcsec).astype(np.float32)
        kernels.paint_galaxies(
            self.image,
            x,
            y,
            flux.astype(np.float32),
            re,
            np.ascontiguousarray(table["axis"]),
            angle,
            (table["sersic"] == 4).astype(np.uint8),
            shapes,
            SERSIC_PROFILE,
            _FAINT_DN,
        )
        on = (x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
        self._note(
            np.full(int(on.sum()), "galaxy"),
            table["id"][on],
            x[on],
            y[on],
            table["ra"][on],
            table["dec"][on],
            table[self.band][on],
            colour[on],
            flux[on],
        )

    def transients(self, table: NDArray[np.void]) -> None:
        """Supernovae that have gone off."""
        mag = events.transient_mags(table, self.plan, self.exposure.fid, self.jd)
        colour = self.colour(table)
        host = (table["host_id"], table["on_galaxy"])
        self._event("transient", table["id"], table["ra"], table["dec"], mag, colour, host)

    def asteroids(self) -> None:
        """Bodies of the main belt where they are at mid-exposure."""
        ra, dec, r = events.asteroid_positions(self.plan, self.jd)
        gr, ri = events.colours("asteroid")
        mag = r + (gr, 0.0, -ri)[self.exposure.fid - 1]
        colour = np.full(r.size, gr if self.exposure.fid < 3 else ri)
        self._event("asteroid", events.asteroids(self.plan)["id"], ra, dec, mag, colour)

    def _event(
        self,
        kind: str,
        ids: NDArray[np.int64],
        ra: F64,
        dec: F64,
        mag: F64,
        colour: F64,
        host: tuple[NDArray[np.int64], NDArray[np.bool_]] | None = None,
    ) -> None:
        x, y = self.wcs.to_pixel(ra, dec)
        flux = np.nan_to_num(self.flux(mag, colour))
        ny, nx = self.image.shape
        on = (x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5) & (flux > 0)
        below = self.image[np.rint(y[on]).astype(int), np.rint(x[on]).astype(int)].astype(float)
        self._paint_points(x, y, flux)
        rows = self._note(
            np.full(int(on.sum()), kind),
            ids[on],
            x[on],
            y[on],
            ra[on],
            dec[on],
            mag[on],
            colour[on],
            flux[on],
            below,
            always=True,
        )
        if host is not None:
            rows["host_id"], rows["on_galaxy"] = host[0][on], host[1][on]

    def fast_movers(self, table: NDArray[np.void]) -> None:
        """Streaks of near-Earth objects: a row of points from shutter opening to closing."""
        t0, t1 = self.exposure.jd, self.exposure.jd + self.exposure.exptime / 86400.0
        ends = [self.wcs.to_pixel(*events.fast_positions(table, t)) for t in (t0, t1)]
        ra, dec = events.fast_positions(table, self.jd)
        gr, ri = events.colours("asteroid")
        mag = table["r"] + (gr, 0.0, -ri)[self.exposure.fid - 1]
        colour = np.full(len(table), gr if self.exposure.fid < 3 else ri)
        flux = self.flux(mag, colour)
        for k in range(len(table)):
            (xa, ya), (xb, yb) = ((e[0][k], e[1][k]) for e in ends)
            if self._streak(xa, ya, xb, yb, float(flux[k])):
                x, y = np.array([(xa + xb) / 2]), np.array([(ya + yb) / 2])
                row = self._note(
                    np.array(["fast"]),
                    table["id"][k : k + 1],
                    x,
                    y,
                    ra[k : k + 1],
                    dec[k : k + 1],
                    mag[k : k + 1],
                    colour[k : k + 1],
                    flux[k : k + 1],
                    always=True,
                )
                row["x"], row["y"], row["x2"], row["y2"] = xa, ya, xb, yb

    def trails(self, ccd_qid: tuple[int, int]) -> None:
        """Satellites cross the whole CCD: the same line in its four quadrants."""
        ccdid, qid = ccd_qid
        rng = np.random.default_rng([self.plan.seed, 62, self.exposure.key, ccdid])
        ny, nx = self.image.shape
        ox, oy = nx * (qid in (2, 3)), ny * (qid in (3, 4))
        for k in range(rng.poisson(self.plan.config.optics.trails_per_ccd)):
            angle, at = rng.uniform(0, np.pi), rng.uniform(0.1, 0.9, 2) * (2 * nx, 2 * ny)
            per_px, reach = float(np.exp(rng.uniform(np.log(60.0), np.log(4000.0)))), 3.0 * (nx + ny)
            dx, dy = np.cos(angle) * reach, np.sin(angle) * reach
            xa, ya, xb, yb = at[0] - dx - ox, at[1] - dy - oy, at[0] + dx - ox, at[1] + dy - oy
            if self._streak(xa, ya, xb, yb, per_px * 2 * reach):
                row = truth_rows(1, "trail")
                row["id"] = 8_000_000_000_000 + k
                row["x"], row["y"], row["x2"], row["y2"], row["flux"] = xa, ya, xb, yb, per_px
                self.rows.append(row)

    def _streak(self, xa: float, ya: float, xb: float, yb: float, flux: float) -> bool:
        """Paint a trailed source of `flux` DN over its length as a row of points; False where it misses the quadrant."""
        if not np.isfinite([xa, ya, xb, yb]).all():
            return False
        length = float(np.hypot(xb - xa, yb - ya))
        ny, nx = self.image.shape
        start, end = _clip(xa, ya, xb, yb, -30.0, nx + 30.0, -30.0, ny + 30.0)
        if not end > start:
            return False
        # Points lie at fixed places of the whole streak, so that quadrants share the same ones.
        n = max(2.0, np.floor(2 * length))
        t = (np.arange(np.floor(start * n), np.ceil(end * n)) + 0.5) / n
        x, y = xa + t * (xb - xa), ya + t * (yb - ya)
        if not np.any((x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5)):
            return False
        shapes, each = self.psf.shapes(x, y), np.full(x.size, flux / n, np.float32)
        radius = self.psf.radii(each, shapes, _FAINT_DN * 0.2)
        kernels.paint_points(self.image, x, y, each, np.maximum(radius, 8), shapes)
        return True

    def _note(
        self,
        kind: NDArray[np.str_],
        ids: NDArray[np.int64],
        x: F64,
        y: F64,
        ra: F64,
        dec: F64,
        mag: F64,
        colour: F64,
        flux: F64,
        below: F64 | None = None,
        always: bool = False,
    ) -> NDArray[np.void]:
        """Append truth rows; sources that are not events are left out below `least_snr`."""
        detector_noise = READ_NOISE_E / self.gain
        norm = self.psf.shapes(x, y)[:, 3] if x.size else np.zeros(0)
        area = self._area * self._peak / np.maximum(norm, 1e-9)
        level = self.state.sky_dn if below is None else below
        snr = flux / np.sqrt(flux / self.gain + area * (level / self.gain + detector_noise**2))
        keep = np.full(x.size, True) if always else snr > self.least_snr
        rows = truth_rows(int(keep.sum()), "")
        for name, values in (
            ("kind", kind),
            ("id", ids),
            ("x", x),
            ("y", y),
            ("ra", ra % 360.0),
            ("dec", dec),
            ("mag", mag),
            ("colour", colour),
            ("flux", flux),
            ("snr", snr),
        ):
            rows[name] = np.asarray(values)[keep]
        rows["x2"], rows["y2"] = rows["x"], rows["y"]
        self.rows.append(rows)
        return rows

    @property
    def gain(self) -> float:
        """Gain of the readout channel, electrons per DN."""
        return detector_of(self.plan, self.rcid).gain


def _sersic_profile(n_points: int = 512) -> F32:
    """Radii, in half-light radii, that enclose the fractions (j + 0.5) / n of the light kept; rows n = 1 and n = 4.

    The light beyond the radius that holds 97 % (n = 1) or 88 % (n = 4) is left out and the rest scaled up to the total.
    """
    rows = []
    for n, kept in ((1.0, 0.97), (4.0, 0.88)):
        b = gammaincinv(2 * n, 0.5)
        fractions = (np.arange(n_points) + 0.5) / n_points * kept
        rows.append((gammaincinv(2 * n, fractions) / b) ** n)
    return np.array(rows, np.float32)


SERSIC_PROFILE = _sersic_profile()
