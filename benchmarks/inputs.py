"""What the single steps are given: the same detrended image, mask and catalogs for every tool, kept on disk beside the scene.

The image is what the pipeline's P2 makes of the raw quadrant. The *known* mask has, besides bad and saturated pixels, the true
radiation hits, hot pixels and satellite trails in it, so that photometry is compared on the same pixels whatever a tool's own masks
are worth; the rows "whole chain" find their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.survey import bits

if TYPE_CHECKING:  # processes that measure the tools of others do without the pipeline in their memory
    from benchmarks.scenes import BenchScene, Truth
    from ztfds.science.run import ScienceInputs

ROOT = Path(__file__).resolve().parents[1] / "var" / "bench"

HOT_DN = 5.0
TRAIL_LEFT_SIGMA = 0.2
"""Light of a trail, in sigmas of the sky in a pixel, that the known mask leaves beside it."""
HARD = np.uint16(bits.HARD_BAD)


@dataclass(frozen=True)
class StepInputs:
    """Inputs of single steps on one quadrant.

    Attributes
    ----------
    name, qid : str, int
        Scene and quadrant.
    folder : Path
        Where the files are: image, mask, known, gaia, ps1, raw, overscan, bias, flat, cmask (.npy), image.fits, weight.fits,
        facts.json.
    """

    name: str
    qid: int
    folder: Path

    @cached_property
    def scene(self) -> BenchScene:
        """The scene that they come from."""
        from benchmarks.scenes import load

        return load(self.name, self.qid)

    def array(self, name: str) -> np.ndarray:
        """One of the other arrays: raw and overscan (uint16), bias and flat (float32), cmask (uint16, of both)."""
        return np.load(self.folder / f"{name}.npy")

    @cached_property
    def pixels(self) -> np.ndarray:
        """(ny, nx) float32: detrended image, DN, sky in; NaN where nothing is known."""
        return np.load(self.folder / "image.npy")

    @cached_property
    def mask(self) -> np.ndarray:
        """(ny, nx) uint16: mask after detrending (bad and saturated pixels)."""
        return np.load(self.folder / "mask.npy")

    @cached_property
    def known(self) -> np.ndarray:
        """(ny, nx) uint16: `mask` with the true radiation hits (SPIKE) and trails (TRACK)."""
        return np.load(self.folder / "known.npy")

    @cached_property
    def gaia(self) -> np.ndarray:
        """Gaia-like stars, at the exposure's epoch."""
        return np.load(self.folder / "gaia.npy")

    @cached_property
    def ps1(self) -> np.ndarray:
        """PS1-like objects."""
        return np.load(self.folder / "ps1.npy")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """gain (e-/DN), readnoise (e-), saturate (DN), sky (DN), sigma (DN), fwhm (px, true), airmass, exptime."""
        return json.loads((self.folder / "facts.json").read_text())

    @property
    def bad(self) -> np.ndarray:
        """(ny, nx) bool: pixels of the known mask that no measurement may use, saturated ones included."""
        return (self.known & HARD) != 0

    @cached_property
    def guess(self) -> WCS:
        """World coordinates by the header, before any solution."""
        return WCS(fits.getheader(self.folder / "image.fits"))

    @cached_property
    def sky_subtracted(self) -> np.ndarray:
        """(ny, nx) float32: pixels minus the true median sky, 0 where bad."""
        return np.where(self.bad, 0.0, self.pixels - np.float32(self.facts["sky"])).astype(np.float32)


def step_inputs(name: str, qid: int = 1) -> StepInputs:
    """Inputs of single steps, made on first use."""
    made = StepInputs(name, qid, ROOT / name / f"steps-q{qid}")
    if not (made.folder / "facts.json").exists():
        made.folder.mkdir(parents=True, exist_ok=True)
        _write(made)
    return made


def _write(made: StepInputs) -> None:
    """Write all files, the facts last."""
    from ztfds.detrend.apply import detrend
    from ztfds.science.pointing import pointing

    scene, truth, inputs = made.scene, made.scene.truth, made.scene.inputs()
    pixels, mask = detrend(inputs.split, inputs.bias, inputs.flat, scene.config.science.detrend)
    known = mask.copy()
    known.flat[truth.hit_index] |= np.uint16(bits.SPIKE)
    hot = hot_pixels(scene)
    known[hot[:, 0], hot[:, 1]] |= np.uint16(bits.SPIKE)
    facts = _facts(inputs, pixels, (known & HARD) != 0, truth.psf.fwhm(*scene.camera.centre_pixel))
    for x0, y0, x1, y1, per_px in truth.trails:
        reach = trail_half_width(truth, per_px, facts["sigma"])
        known[near_line(known.shape, x0, y0, x1, y1, reach)] |= np.uint16(bits.TRACK)
    raw = scene.raw.quadrants[scene.qid - 1]
    arrays = {
        "image": pixels, "mask": mask, "known": known, "gaia": inputs.gaia, "ps1": inputs.ps1, "raw": raw.pixels,
        "overscan": raw.overscan, "bias": inputs.bias.data, "flat": inputs.flat.data,
        "cmask": inputs.bias.cmask | inputs.flat.cmask,
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(made.folder / f"{name}.npy", array)
    facts["raw_path"] = str(scene.raw_path)
    guess = pointing(inputs.primary, inputs.split.header, inputs.camera, scene.rcid // 4 + 1, scene.qid).guesses[0]
    write_fits_pair(made.folder, pixels, known, facts, guess)
    (made.folder / "facts.json").write_text(json.dumps(facts))


def hot_pixels(scene: BenchScene) -> np.ndarray:
    """(n, 2) int64, row and column: hot pixels that gather more than 5 DN in the exposure; biases are too short to show them."""
    from ztfds.simulator.camera import READOUT_S
    from ztfds.simulator.exposure import detector_of

    defects = detector_of(scene.plan, scene.rcid).defects
    return defects.hot[defects.hot_rate * (scene.exposure.exptime + 0.5 * READOUT_S) > HOT_DN]


def trail_half_width(truth: Truth, per_px: float, sigma: float, half: int = 60) -> float:
    """Distance, px, at which a trail of `per_px` DN per px of length falls below a fraction of the sky noise."""
    ny, nx = truth.shape
    across = truth.psf.stamp((nx - 1) // 2, (ny - 1) // 2, half).sum(axis=0)[half:]
    return 1.0 + float(np.count_nonzero(per_px * across > TRAIL_LEFT_SIGMA * sigma))


def near_line(shape: tuple[int, ...], x0: float, y0: float, x1: float, y1: float, reach: float) -> np.ndarray:
    """(ny, nx) bool: pixels nearer than `reach` px to the straight line through two points."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.abs((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) < reach * np.hypot(x1 - x0, y1 - y0)


def _facts(inputs: ScienceInputs, pixels: np.ndarray, bad: np.ndarray, fwhm: float) -> dict[str, Any]:
    """Numbers that every tool may know."""
    header = inputs.split.header
    gain, noise, sky = float(header["GAIN"]), float(header["READNOI"]), float(np.median(pixels[~bad][::16]))
    return {
        "gain": gain,
        "readnoise": noise,
        "saturate": float(inputs.split.saturation_dn),
        "sky": sky,
        "sigma": float(np.sqrt(sky / gain + (noise / gain) ** 2)),
        "fwhm": fwhm,
        "airmass": float(inputs.primary["AIRMASS"]),
        "exptime": float(inputs.primary["EXPTIME"]),
        "epoch": 2000.0 + (float(inputs.primary["OBSJD"]) - 2451545.0) / 365.25,
        "jd": float(inputs.primary["OBSJD"]),
    }


def write_fits_pair(folder: Path, pixels: np.ndarray, mask: np.ndarray, facts: dict[str, Any], guess: WCS) -> None:
    """image.fits and weight.fits for tools that read files: saturated pixels stay (tools know SATURATE), others get weight 0."""
    header = fits.Header()
    for axis in (1, 2):
        header[f"CTYPE{axis}"], header[f"CUNIT{axis}"] = ("RA---TAN", "DEC--TAN")[axis - 1], "deg"
        header[f"CRVAL{axis}"], header[f"CRPIX{axis}"] = guess.wcs.crval[axis - 1], guess.wcs.crpix[axis - 1]
        for other in (1, 2):
            header[f"CD{axis}_{other}"] = float(guess.pixel_scale_matrix[axis - 1, other - 1])
    header["GAIN"], header["SATURATE"], header["EXPTIME"] = facts["gain"], 0.95 * facts["saturate"], facts["exptime"]
    header["MJD-OBS"], header["AIRMASS"], header["FILTER"] = facts["jd"] - 2400000.5, facts["airmass"], "r"
    lost = (mask & (HARD & ~np.uint16(bits.SATURATED))) != 0
    image = np.where(np.isfinite(pixels), pixels, np.float32(facts["sky"]))
    fits.writeto(folder / "image.fits", image, header, overwrite=True)
    fits.writeto(folder / "weight.fits", np.where(lost, 0.0, 1.0).astype(np.float32), overwrite=True)
