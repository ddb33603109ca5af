"""How good results are, judged against the simulator's truth with numpy, scipy and astropy only: no kernel of the pipeline judges itself.

Definitions, the same for every tool:

* A true source is *found* if a detection lies within 1.5 px of it whose flux is within a factor of 3 (each detection counts once,
  bright sources choose first). Counted: stars whose central pixels are good and far from saturation.
* A detection is *spurious* if all true sources within 2.5 px together have less than a third of its flux.
  Counted: detections of S/N >= 5 by the flux they state and the true noise.
* Flux errors are relative to the true flux in the flat-fielded image.
* *Scatter* is 1.4826 times the median absolute deviation from the median.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage
from scipy.spatial import cKDTree

from benchmarks.inputs import HARD, StepInputs

if TYPE_CHECKING:
    from benchmarks.scenes import Truth

Numbers = dict[str, Any]
MATCH_PX, SPURIOUS_PX, FLUX_FACTOR = 1.5, 2.5, 3.0
EDGE_PX = 12.0
POINT_KINDS = ("star", "variable", "transient", "asteroid")
MAG_BINS = np.arange(14.0, 22.01, 0.5)
ISOLATION_PX, ISOLATED_SHARE = 10.0, 0.01
GRID = 41
SIGNIFICANT_HIT_SIGMA = 5.0


def scatter(values: np.ndarray) -> float:
    """Robust standard deviation of the finite values; NaN without any."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return float("nan")
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _rounded(numbers: Numbers, digits: int = 4) -> Numbers:
    return {name: round(float(value), digits) if np.isscalar(value) else value for name, value in numbers.items()}


# -- sources -----------------------------------------------------------------------------------------------------------


class SourceTruth:
    """The true sources of a quadrant, and which of them may be counted.

    Attributes
    ----------
    rows : structured array of TRUTH
    flux : (n,) float64, DN in the flat-fielded image
    countable : (n,) bool: point sources inside the frame, on good pixels, not near saturation
    isolated : (n,) bool: neighbours within 10 px hold less than 1 % of the source's light
    """

    def __init__(self, inputs: StepInputs) -> None:
        truth = inputs.scene.truth
        self.truth, self.inputs, self.rows = truth, inputs, truth.sources
        self.flux = self.rows["flux"].astype(float) * truth.flux_scale
        faint = truth.faint.astype(float)
        self.all_xy = np.concatenate([np.column_stack([self.rows["x"], self.rows["y"]]), faint[:, :2]])
        self.all_flux = np.concatenate([self.flux, faint[:, 2] * float(np.median(truth.flux_scale))])
        self.tree = cKDTree(self.all_xy)
        self.countable = self._countable(inputs.bad)
        self.isolated = self._isolated()

    def _countable(self, bad: np.ndarray) -> np.ndarray:
        ny, nx = bad.shape
        x, y = self.rows["x"], self.rows["y"]
        inside = (x > EDGE_PX) & (y > EDGE_PX) & (x < nx - 1 - EDGE_PX) & (y < ny - 1 - EDGE_PX)
        near_bad = ndimage.binary_dilation(bad, np.ones((5, 5), bool))
        ix, iy = np.clip(np.rint(x).astype(int), 0, nx - 1), np.clip(np.rint(y).astype(int), 0, ny - 1)
        usual = np.isin(self.rows["kind"], POINT_KINDS) & ~self.rows["near_saturated"]
        return inside & usual & ~near_bad[iy, ix]

    def _isolated(self) -> np.ndarray:
        near = self.tree.query_ball_point(self.all_xy[: len(self.rows)], ISOLATION_PX)
        others = np.array([self.all_flux[members].sum() for members in near]) - self.flux
        return others < ISOLATED_SHARE * self.flux

    def snr_of(self, flux: np.ndarray) -> np.ndarray:
        """S/N of optimal photometry on the true sky for point sources of some flux, DN."""
        truth, facts = self.truth, self.inputs.facts
        ny, nx = truth.shape
        area = truth.psf.noise_area((nx - 1) / 2, (ny - 1) / 2)
        return flux / np.sqrt(np.maximum(flux, 0) / facts["gain"] + area * facts["sigma"] ** 2)

    def match(self, x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> np.ndarray:
        """Index of the detection that is each true source, -1 for none."""
        order = np.argsort(-self.flux)
        pairs = cKDTree(np.column_stack([x, y])).query_ball_point(self.all_xy[order], MATCH_PX)
        found, used = np.full(len(self.rows), -1), np.zeros(len(x), bool)
        for k, members in zip(order, pairs, strict=True):
            free = [m for m in members if not used[m] and 1 / FLUX_FACTOR < flux[m] / self.flux[k] < FLUX_FACTOR]
            if free:
                best = min(free, key=lambda m: (x[m] - self.rows["x"][k]) ** 2 + (y[m] - self.rows["y"][k]) ** 2)
                found[k], used[best] = best, True
        return found

    def spurious(self, x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> np.ndarray:
        """(n,) bool: detections with less than a third of their flux in true sources nearby."""
        near = self.tree.query_ball_point(np.column_stack([x, y]), SPURIOUS_PX)
        real = np.array([self.all_flux[members].sum() for members in near])
        return real < flux / FLUX_FACTOR


def catalog_numbers(sources: SourceTruth, result: Numbers) -> Numbers:
    """Completeness and spurious detections of a catalog with x, y, flux."""
    x, y, flux = (np.asarray(result[name], float) for name in ("x", "y", "flux"))
    good = np.isfinite(x) & np.isfinite(y) & (flux > 0)
    x, y, flux = x[good], y[good], flux[good]
    found = sources.match(x, y, flux) >= 0
    snr, mag = sources.rows["snr"], sources.rows["mag"]

    def share(chosen: np.ndarray) -> float:
        return float(found[chosen & sources.countable].mean()) if np.any(chosen & sources.countable) else float("nan")

    bins = {f"{low:.1f}": round(share((mag >= low) & (mag < low + 0.5)), 4) for low in MAG_BINS[:-1]}
    considered = (sources.snr_of(flux) >= 5.0) & _far_from_saturation(sources, x, y)
    wrong = sources.spurious(x, y, flux) & considered
    return _rounded(
        {
            "n": float(x.size),
            "complete_snr5": share((snr > 4.5) & (snr < 5.5)),
            "complete_snr10": share((snr > 9.0) & (snr < 11.0)),
            "complete_snr15": share((snr > 13.5) & (snr < 16.5)),
            "complete_snr8_15": share((snr > 8.0) & (snr < 15.0)),
            "complete_isolated_snr5": share((snr > 4.5) & (snr < 5.5) & sources.isolated),
            "spurious": float(wrong.sum() / max(1, considered.sum())),
        }
    ) | {"complete_by_mag": {name: value for name, value in bins.items() if np.isfinite(value)}}


def _far_from_saturation(sources: SourceTruth, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) bool: detections inside the frame on good pixels."""
    near_bad = ndimage.binary_dilation(sources.inputs.bad, np.ones((5, 5), bool))
    ny, nx = near_bad.shape
    ix, iy = np.clip(np.rint(x).astype(int), 0, nx - 1), np.clip(np.rint(y).astype(int), 0, ny - 1)
    inside = (x > EDGE_PX) & (y > EDGE_PX) & (x < nx - 1 - EDGE_PX) & (y < ny - 1 - EDGE_PX)
    return inside & ~near_bad[iy, ix]


def photometry_numbers(sources: SourceTruth, result: Numbers) -> Numbers:
    """Errors of fluxes and positions of a catalog with x, y, flux, error."""
    x, y, flux, error = (np.asarray(result[name], float) for name in ("x", "y", "flux", "error"))
    found = sources.match(x, y, flux)
    chosen = (found >= 0) & sources.countable
    which = found[chosen]
    true, snr, isolated = sources.flux[chosen], sources.rows["snr"][chosen], sources.isolated[chosen]
    ratio = flux[which] / true
    # Tools normalise their PSFs in apertures of their own: the zero point takes that factor out, and so do the pulls.
    common = np.median(ratio[(snr > 50) & isolated]) if np.any((snr > 50) & isolated) else 1.0
    pull = (flux[which] / common - true) / (error[which] / common)
    scale = 1012.0
    off = [scale * (a[which] - sources.rows[name][chosen]) for a, name in ((x, "x"), (y, "y"))]
    very_bright, bright, middle = snr > 300, (snr > 50) & isolated, (snr > 10) & (snr < 100)
    numbers = {
        "bright_scatter_percent": 100 * scatter(ratio[very_bright]),
        "bright_scatter_isolated_percent": 100 * scatter(ratio[very_bright & isolated]),
        "n_bright": float(very_bright.sum()),
        "flux_bias_mmag": -1000 * 2.5 * np.log10(np.median(ratio[bright])) if bright.any() else np.nan,
        "faint_bias_percent": 100 * (float(np.median(ratio[(snr > 8) & (snr < 15) & isolated])) / common - 1),
        "pull_width": scatter(pull[middle]),
        "pull_width_isolated": scatter(pull[middle & isolated]),
        "pull_width_bright": scatter(pull[very_bright]),
        "centroid_bright_mas": float(np.mean([scatter(o[very_bright]) for o in off])),
    }
    return _rounded(numbers)


# -- masks, sky, images ------------------------------------------------------------------------------------------------


def cosmic_ray_numbers(inputs: StepInputs, flagged: np.ndarray) -> Numbers:
    """Tracks found, and good pixels of stars that were flagged.

    A track counts if its brightest pixel received 5 sigma of the local noise, and is found if pixels with half of its
    charge are flagged. A false pixel is flagged, not within a pixel of a hit, a trail, a bad or a saturated pixel, and
    lies where the true light of sources exceeds 3 sigma of the sky.
    """
    truth, sigma = inputs.scene.truth, inputs.facts["sigma"]
    flagged = np.asarray(flagged, bool)
    hits, light = truth.hits, np.asarray(truth.light) - truth.sky
    local = np.sqrt(sigma**2 + np.maximum(light, 0) / inputs.facts["gain"])
    track, n = truth.hit_track, truth.n_tracks
    counted = np.ones(truth.hit_index.size, bool) & ((inputs.mask.flat[truth.hit_index] & HARD) == 0)
    peak, charge, got = np.zeros((3, n + 1))
    significance = truth.hit_dn / local.flat[truth.hit_index]
    np.maximum.at(peak, track[counted], significance[counted])
    np.add.at(charge, track[counted], truth.hit_dn[counted])
    np.add.at(got, track[counted], (truth.hit_dn * flagged.flat[truth.hit_index])[counted])
    judged = peak > SIGNIFICANT_HIT_SIGMA
    near = ndimage.binary_dilation(hits > 0, np.ones((3, 3), bool))
    near |= ndimage.binary_dilation((inputs.known & HARD) != 0, np.ones((9, 9), bool))
    false = flagged & ~near
    on_stars = false & (light > 3 * sigma)
    return _rounded(
        {
            "tracks": float(judged.sum()),
            "tracks_found": float((got[judged] >= 0.5 * charge[judged]).mean()),
            "charge_flagged": float(got[judged].sum() / max(charge[judged].sum(), 1e-9)),
            "false_px_on_stars": float(on_stars.sum()),
            "stars_hurt": float(_stars_hurt(truth, on_stars)),
            "false_px_elsewhere": float(false.sum() - on_stars.sum()),
        }
    )


def _stars_hurt(truth: Truth, false: np.ndarray) -> int:
    """Point sources of S/N > 5 with a falsely flagged pixel within their central 3 x 3."""
    rows = truth.sources[np.isin(truth.sources["kind"], POINT_KINDS) & (truth.sources["snr"] > 5)]
    grown = ndimage.binary_dilation(false, np.ones((3, 3), bool))
    ny, nx = false.shape
    ix, iy = np.clip(np.rint(rows["x"]).astype(int), 0, nx - 1), np.clip(np.rint(rows["y"]).astype(int), 0, ny - 1)
    return int(grown[iy, ix].sum())


def sky_numbers(inputs: StepInputs, level: np.ndarray) -> Numbers:
    """Error of a sky map, in percent of the noise of a sky pixel; light of ghosts and halos left out."""
    truth = inputs.scene.truth
    every = (slice(8, None, 16), slice(8, None, 16))
    true = truth.sky[every] * float(np.median(truth.flux_scale)) / _relative_lamp(truth, every)
    off = (np.asarray(level, float)[every] - true)[truth.reflected[every] < 0.1]
    sigma = inputs.facts["sigma"]
    return _rounded(
        {"sky_bias_dn": np.median(off), "sky_scatter_dn": scatter(off), "sky_bias_sigma": np.median(off) / sigma}
    )


def _relative_lamp(truth: Truth, every: tuple[slice, slice]) -> np.ndarray:
    """Uneven light of the flats on a grid, relative to its median; from the fluxes' scale, a quadratic of position."""
    ny, nx = truth.shape

    def terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = 2 * x / (nx - 1) - 1, 2 * y / (ny - 1) - 1
        return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)

    inverse = float(np.median(truth.flux_scale)) / truth.flux_scale
    solved, *_ = np.linalg.lstsq(terms(truth.sources["x"], truth.sources["y"]), inverse, rcond=None)
    y, x = np.mgrid[:ny, :nx][(slice(None), *every)].astype(float)
    return terms(x, y) @ solved


def image_numbers(inputs: StepInputs, pixels: np.ndarray) -> Numbers:
    """Pixels of a detrended image against the noiseless light, in units of the expected noise, on good pixels off stars."""
    truth, every = inputs.scene.truth, (slice(None, None, 4), slice(None, None, 4))
    scale = float(np.median(truth.flux_scale)) / _relative_lamp(truth, every)
    true = np.asarray(truth.light)[every] * scale
    noise = np.sqrt(true / truth.gain + (truth.read_noise_e / truth.gain) ** 2)
    good = ~ndimage.binary_dilation(inputs.bad, np.ones((3, 3), bool))[every] & np.isfinite(pixels[every])
    off = ((np.asarray(pixels, float)[every] - true) / noise)[good]
    return _rounded({"noise_ratio": scatter(off), "level_error_sigma": np.median(off)})


# -- astrometry and zero point -----------------------------------------------------------------------------------------


def wcs_of(text: Any) -> WCS:
    """World coordinates of header cards in a text, whatever else they hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(fits.Header.fromstring(str(text), sep="\n"))


def astrometry_numbers(inputs: StepInputs, text: Any) -> Numbers:
    """RMS per axis of a solution against the true mapping on a grid over the quadrant, and at its worst place, mas."""
    truth = inputs.scene.truth
    ny, nx = truth.shape
    y, x = np.mgrid[0 : ny - 1 : GRID * 1j, 0 : nx - 1 : GRID * 1j]
    off = sky_offsets_mas(truth, wcs_of(text), x.ravel(), y.ravel())
    worst = float(np.hypot(*off).max())
    return _rounded(
        {"floor_mas": np.sqrt((off**2).mean()), "floor_max_mas": worst, "floor_median_mas": np.median(np.hypot(*off))},
        2,
    )


def sky_offsets_mas(truth: Truth, solution: WCS, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(2, n) float64: what a solution says minus the truth, east and north, mas, at 0-based pixels."""
    ra, dec = solution.all_pix2world(x, y, 0)
    true_ra, true_dec = truth.wcs.to_sky(x, y)
    east = ((ra - true_ra + 180.0) % 360.0 - 180.0) * np.cos(np.radians(true_dec))
    return 3.6e6 * np.stack([east, dec - true_dec])


def bright_star_positions(sources: SourceTruth, result: Numbers) -> Numbers:
    """Positions on the sky of bright stars as the chain gives them, against truth: RMS per axis of S/N > 100, clipped at 5 sigma."""
    x, y, flux = (np.asarray(result[name], float) for name in ("x", "y", "flux"))
    found = sources.match(x, y, flux)
    chosen = (found >= 0) & sources.countable & (sources.rows["snr"] > 100)
    which = found[chosen]
    ra, dec = wcs_of(result["header"]).all_pix2world(x[which], y[which], 0)
    rows = sources.rows[chosen]
    east = ((ra - rows["ra"] + 180.0) % 360.0 - 180.0) * np.cos(np.radians(rows["dec"])) * 3.6e6
    north = (dec - rows["dec"]) * 3.6e6
    rms = [
        np.sqrt(np.mean(v[np.abs(v - np.median(v)) < 5 * scatter(v)] ** 2)) if v.size else np.nan for v in (east, north)
    ]
    return _rounded({"bright_ra_mas": rms[0], "bright_dec_mas": rms[1], "n_bright_positions": float(chosen.sum())}, 2)


def zeropoint_numbers(inputs: StepInputs, magzp: float, clrcoeff: float) -> Numbers:
    """Error of the zero point at the median colour of the stars, mmag: m_PS1 = -2.5 log10(flux) + magzp + clrcoeff * colour."""
    truth = inputs.scene.truth
    stars = truth.sources[np.isin(truth.sources["kind"], ("star",)) & (truth.sources["snr"] > 50)]
    colour = float(np.median(stars["colour"]))
    true = truth.zeropoint + 2.5 * np.log10(float(np.median(truth.flux_scale)))
    error = (float(magzp) + float(clrcoeff) * colour) - (true + truth.colour_term * colour)
    return _rounded({"zp_error_mmag": 1000 * error, "colour_term_error": float(clrcoeff) - truth.colour_term}, 3)


# -- stacks ------------------------------------------------------------------------------------------------------------


def stack_numbers(
    image: np.ndarray, ideal: np.ndarray, sigma: float, planted: np.ndarray, counted: np.ndarray | None = None
) -> Numbers:
    """Noise of a stack over that of the plain mean of clean frames, and planted outliers that got through.

    The mean of n clean Gaussian samples has the least variance v = sigma^2 / n, and what any other unbiased estimator adds is
    independent of it: noise^2 = v + var(image - ideal). `planted` are flat indices of spoilt samples; one got through if the
    stack is off by more than 5 sqrt(v) there; of them `counted` ones count.
    """
    off = (np.asarray(image, float) - ideal).ravel()
    off -= np.median(off)
    clean = np.ones(off.size, bool)
    clean[planted] = False
    extra = float(np.var(np.clip(off[clean], -5 * sigma, 5 * sigma)))
    judged = planted if counted is None else planted[counted]
    through = np.abs(off[judged]) > 5 * sigma
    return _rounded(
        {
            "noise_over_ideal": np.sqrt(1 + extra / sigma**2),
            "outliers": float(judged.size),
            "got_through": float(through.sum()),
        }
    )
