"""Full-size scenes with truth: one exposure of one CCD with its calibration frames and catalogs, made once and kept in var/bench.

A scene is named ``<field>-<seed>``: *quiet* (high Galactic latitude, some 3,000 detectable sources a quadrant), *plane* (some
60,000) or *dense* (some 120,000). Seeds below 1000 are for tuning, the others for judging. Everything beyond the raw file
(calibration products, truth) is made per quadrant when it is first asked for.

All pixel positions are 0-based, (x, y) = (column, row), in the stored orientation of a quadrant.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from scipy import ndimage

from ztfds.calibration.bias import stack_bias
from ztfds.calibration.flat import stack_flat
from ztfds.calibration.products import CalibrationImage
from ztfds.config.sets import ConfigSet, set_for_camera
from ztfds.detrend.split import split
from ztfds.formats.catalogs import StaticCatalogs
from ztfds.formats.raw import RawCcd, RawQuadrant, read_raw
from ztfds.science.pointing import pointing
from ztfds.science.run import ScienceInputs
from ztfds.simulator import kernels as simulator_kernels
from ztfds.simulator.camera import READOUT_S, radiation
from ztfds.simulator.config import SimulatorConfig
from ztfds.simulator.exposure import TRUTH_SNR, detector_of, exposure_rng, make_scene, quadrant_wcs, reflections, render
from ztfds.simulator.headers import primary_header, quadrant_header
from ztfds.simulator.night import render_ccd
from ztfds.simulator.optics import PsfField, TrueWcs
from ztfds.simulator.schedule import Conditions, Plan, PlannedExposure, conditions, make_plan
from ztfds.simulator.truth import read_truth, write_catalogs
from ztfds.survey.camera import CCD, Camera, rcid
from ztfds.survey.detector import GAIN_E_PER_DN, READ_NOISE_E

ROOT = Path(__file__).resolve().parents[1] / "var" / "bench"
NAMES = ("quiet-1", "plane-1", "quiet-1001", "plane-1001")
DATE = "20200917"
"""A night of new moon."""
CCDID = CCD.ccdids[0]
N_FRAMES = 20
TRAILS_PER_CCD = 3.0
"""Mean number of satellite trails across the CCD: more than real ones, so that every scene has some."""
DENSITIES = {"quiet": (2000.0, 650.0), "plane": (40000.0, 300.0), "dense": (80000.0, 300.0)}
"""Stars and galaxies per square degree brighter than r = 20.5."""
CATALOG_MARGIN_DEG = 0.15
FAINT_SNR = 0.5


@dataclass(frozen=True)
class Truth:
    """What is in one quadrant.

    Attributes
    ----------
    sources : structured array of simulator.truth.TRUTH
        Stars, variables, galaxies, transients, asteroids and fast movers of S/N > 3: x, y, flux (DN of a perfect detector in the
        whole exposure), mag (PS1), colour, snr, ra, dec, near_saturated.
    faint : (n, 3) float32
        x, y, flux of what was painted below S/N 3.
    flux_scale : (n,) float64
        DN in the flat-fielded image per DN of a perfect detector at each row of `sources`: the flats were lit unevenly.
    trails : (m, 5) float64
        Satellite trails: x, y of both ends (mostly outside), DN per pixel of length.
    hit_index, hit_dn, hit_track : (k,) int64, float32, int32
        Pixels hit by radiation: flat index, DN deposited, number of the connected track (1..n_tracks).
    saturated : (ny, nx) bool
        Wells that were full, bleeding included.
    reflected : (ny, nx) float32
        Light of halos and pupil ghosts, DN of a perfect detector.
    light : (ny, nx) float32
        The noiseless scene, DN of a perfect detector: sky, sources, trails, reflections; no radiation.
    wcs : TrueWcs
        `to_sky(x, y)`, `to_pixel(ra, dec)`; 0-based pixels, positions at mid-exposure.
    psf : PsfField
        `stamp(x, y)`, `fwhm(x, y)`, `noise_area(x, y)`.
    conditions : Conditions
        Of the exposure: sky_dn, gradient, airmass, pointing.
    zeropoint, colour_term : float
        m_PS1 = -2.5 log10(flux) + zeropoint + colour_term * colour.
    gain, read_noise_e : float
        True values, e-/DN and e-.
    """

    sources: np.ndarray
    faint: np.ndarray
    flux_scale: np.ndarray
    trails: np.ndarray
    hit_index: np.ndarray
    hit_dn: np.ndarray
    hit_track: np.ndarray
    saturated: np.ndarray
    reflected: np.ndarray
    light: np.ndarray
    wcs: TrueWcs
    psf: PsfField
    conditions: Conditions
    zeropoint: float
    colour_term: float
    gain: float
    read_noise_e: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.light.shape[0], self.light.shape[1]

    @property
    def sky(self) -> np.ndarray:
        """(ny, nx) float32: the sky alone, DN of a perfect detector."""
        ny, nx = self.shape
        gx, gy = self.conditions.gradient
        rows = self.conditions.sky_dn * (1 + gy * np.linspace(-1, 1, ny))
        return np.multiply.outer(rows, 1 + gx * np.linspace(-1, 1, nx)).astype(np.float32)

    @property
    def hits(self) -> np.ndarray:
        """(ny, nx) float32: DN deposited by radiation."""
        image = np.zeros(self.shape, np.float32)
        image.flat[self.hit_index] = self.hit_dn
        return image

    @property
    def n_tracks(self) -> int:
        """Number of connected tracks of radiation."""
        return int(self.hit_track.max(initial=0))


@dataclass(frozen=True)
class BenchScene:
    """One quadrant of a scene; what is large is read when it is asked for.

    Attributes
    ----------
    name, qid : str, int
        Scene and quadrant 1..4.
    folder : Path
        Where its files are: raw/, catalogs/, truth/, q<qid>.*
    plan, exposure : Plan, PlannedExposure
        For asking the simulator more.
    """

    name: str
    qid: int
    folder: Path
    plan: Plan
    exposure: PlannedExposure

    @property
    def field(self) -> str:
        """quiet or plane."""
        return self.name.partition("-")[0]

    @property
    def camera(self) -> Camera:
        """The camera that took it."""
        return self.plan.camera

    @property
    def config(self) -> ConfigSet:
        """Settings of the pipeline for this camera."""
        return set_for_camera(self.plan.camera)

    @property
    def rcid(self) -> int:
        """Readout channel."""
        return rcid(self.camera.ccdids[0], self.qid)

    @property
    def raw_path(self) -> Path:
        """The Rice-compressed raw file of the CCD."""
        return self.folder / "raw" / self.exposure.raw_name(self.camera.ccdids[0]).filename

    @property
    def catalogs(self) -> Path:
        """Folder of the Gaia-like and PS1-like tables."""
        return self.folder / "catalogs"

    @cached_property
    def raw(self) -> RawCcd:
        """The raw file, read and verified."""
        return read_raw(self.raw_path, self.camera.quadrant_shape)

    @cached_property
    def bias(self) -> CalibrationImage:
        """Bias made by the pipeline from 20 frames."""
        return _calibration(self, "bias")

    @cached_property
    def flat(self) -> CalibrationImage:
        """Flat made by the pipeline from 20 frames in the exposure's filter."""
        return _calibration(self, "flat")

    @cached_property
    def truth(self) -> Truth:
        """What is in the quadrant."""
        return _truth(self)

    def inputs(self) -> ScienceInputs:
        """What pipeline 5 needs: the quadrant after P2, calibration products, catalogs."""
        raw, quadrant = self.raw, self.raw.quadrants[self.qid - 1]
        sky = pointing(raw.header, quadrant.header, self.camera, raw.name.ccdid, self.qid)
        catalogs = StaticCatalogs(self.catalogs)
        return ScienceInputs(
            split=split(quadrant, raw.header, self.config.split),
            primary=raw.header,
            bias=self.bias,
            flat=self.flat,
            gaia=sky.catalog(partial(catalogs.gaia, epoch_jd=float(raw.header["OBSJD"])), CATALOG_MARGIN_DEG),
            ps1=sky.catalog(catalogs.ps1, CATALOG_MARGIN_DEG),
            camera=self.camera,
        )


def load(name: str, qid: int = 1, root: Path = ROOT, camera: Camera = CCD) -> BenchScene:
    """A quadrant of a scene; what is missing on disk is made first (seconds for quiet fields, half a minute for the plane).

    Parameters
    ----------
    name : str
        ``quiet-<seed>``, ``plane-<seed>`` or ``dense-<seed>``.
    qid : int
        Quadrant 1..4.
    root : Path
        Folder of all scenes.
    camera : Camera
        Of one CCD.
    """
    plan = plan_of(name, camera)
    exposure = next(e for e in plan.exposures if e.kind == "o")
    scene = BenchScene(name, qid, root / name, plan, exposure)
    if not scene.raw_path.exists():
        write_catalogs(scene.catalogs, plan)
        render_ccd(scene.raw_path.parent, plan, exposure.index, camera.ccdids[0], scene.folder / "truth")
    return scene


def plan_of(name: str, camera: Camera = CCD) -> Plan:
    """The plan behind a scene: one afternoon of calibration frames and one exposure in r."""
    field, _, seed = name.partition("-")
    config = SimulatorConfig.tiny() if camera.area_fraction < 0.05 else SimulatorConfig()
    if camera.area_fraction >= 0.05:
        stars, galaxies = DENSITIES[field]
        sky = config.sky.model_copy(update={"star_density_per_deg2": stars, "galaxy_density_per_deg2": galaxies})
        config = config.model_copy(update={"sky": sky})
    optics = config.optics.model_copy(update={"trails_per_ccd": TRAILS_PER_CCD})
    return make_plan(
        camera, DATE, seed=int(seed), n_fields=1, filter_codes=("zr",), n_exposures=1, n_reference=0, n_bias=N_FRAMES,
        n_flat=N_FRAMES, sky="quiet" if field == "quiet" else "plane", config=config.model_copy(update={"optics": optics}),
    )  # fmt: skip


def frames(scene: BenchScene, kind: str) -> tuple[list[RawQuadrant], list[fits.Header]]:
    """The 20 raw bias ('bias') or flat ('flat') frames of the quadrant's channel, and their primary headers."""
    planned = [e for e in scene.plan.exposures if e.purpose == kind]
    folder = _calibration_folder(scene)
    paths = [folder / f"{kind}_{part}.npy" for part in ("pixels", "overscans")]
    if not all(path.exists() for path in paths):
        made = [render(scene.plan, e, scene.rcid) for e in planned]
        _save(paths[0], partial(np.save, arr=np.stack([m.pixels for m in made])))
        _save(paths[1], partial(np.save, arr=np.stack([m.overscan for m in made])))
    pixels, strips = (np.load(path, mmap_mode="c") for path in paths)
    channel = scene.rcid
    raws = [
        RawQuadrant(scene.qid, channel, np.asarray(p), np.asarray(s), quadrant_header(scene.plan, e, channel))
        for p, s, e in zip(pixels, strips, planned, strict=True)
    ]
    return raws, [primary_header(scene.plan, e, scene.camera.ccdids[0], None) for e in planned]


def _calibration_folder(scene: BenchScene) -> Path:
    """Calibration frames depend on the seed and the channel only: quiet and plane scenes share them."""
    return scene.folder.parent / f"calibration-{scene.plan.seed}" / f"q{scene.qid}"


def _kept_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array kept on disk, mapped into memory; made when it is not there."""
    if not path.exists():
        _save(path, partial(np.save, arr=make()))
    return np.load(path, mmap_mode="c")


def _save(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file under another name, then rename it: somebody else may be reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as stream:
        write(stream)
    temporary.replace(path)


def _calibration(scene: BenchScene, kind: str) -> CalibrationImage:
    """A bias or flat, kept on disk."""
    path = _calibration_folder(scene) / f"{kind}.npz"
    if not path.exists():
        raws, headers = frames(scene, kind)
        config = scene.config
        made = stack_bias(raws, config.bias) if kind == "bias" else stack_flat(
            raws, scene.bias, config.flat, headers=headers
        )  # fmt: skip
        facts = np.array(json.dumps(made.qa))
        _save(path, lambda out: np.savez(out, data=made.data, uncertainty=made.uncertainty, cmask=made.cmask, qa=facts))
    with np.load(path) as kept:
        return CalibrationImage(kept["data"], kept["uncertainty"], kept["cmask"], json.loads(str(kept["qa"])))


def _truth(scene: BenchScene) -> Truth:
    """Truth of a quadrant, from disk or made now."""
    light = _kept_array(scene.folder / f"q{scene.qid}.light.npy", lambda: _light(scene))
    path = scene.folder / f"q{scene.qid}.truth.npz"
    if not path.exists():
        parts = _detector_truth(scene, np.array(light)) | {"faint": _faint(scene)}
        _save(path, lambda out: np.savez_compressed(out, **parts))
    rows, facts = read_truth(next((scene.folder / "truth").glob("*.parquet")))
    rows = rows[rows["qid"] == scene.qid]
    sources = rows[~np.isin(rows["kind"], ("trail", "radiation"))]
    trails = rows[rows["kind"] == "trail"]
    channel = next(q for q in facts["quadrants"] if q["rcid"] == scene.rcid)
    state = conditions(scene.plan, scene.exposure)
    with np.load(path) as kept:
        parts = {name: kept[name] for name in kept.files}
    shape = scene.camera.quadrant_shape
    return Truth(
        sources=sources,
        faint=parts["faint"],
        flux_scale=_flux_scale(scene, sources["x"], sources["y"], float(parts["flat_level"])),
        trails=np.column_stack([trails[name].astype(float) for name in ("x", "y", "x2", "y2", "flux")]),
        hit_index=parts["hit_index"],
        hit_dn=parts["hit_dn"],
        hit_track=parts["hit_track"],
        saturated=np.unpackbits(parts["saturated"], count=shape[0] * shape[1]).reshape(shape).astype(bool),
        reflected=parts["reflected"],
        light=light,
        wcs=quadrant_wcs(scene.plan, state, scene.rcid),
        psf=PsfField(scene.plan.seed, scene.rcid, shape, state.seeing, scene.plan.config.optics),
        conditions=state,
        zeropoint=float(channel["zeropoint"]),
        colour_term=scene.plan.config.optics.colour_term[scene.exposure.fid - 1],
        gain=float(channel["gain"]),
        read_noise_e=READ_NOISE_E,
    )


def _light(scene: BenchScene) -> np.ndarray:
    """The noiseless scene."""
    return make_scene(scene.plan, scene.exposure, scene.rcid).image


def _faint(scene: BenchScene) -> np.ndarray:
    """x, y, flux of sources between S/N 0.5 and 3; (n, 3) float32."""
    rows = make_scene(scene.plan, scene.exposure, scene.rcid, with_events=False, least_snr=FAINT_SNR).truth
    rows = rows[rows["snr"] <= TRUTH_SNR]
    return np.column_stack([rows["x"], rows["y"], rows["flux"]]).astype(np.float32)


def _detector_truth(scene: BenchScene, image: np.ndarray) -> dict[str, np.ndarray]:
    """Radiation, full wells, reflections and the flat's level: the exposure once more through the detector; `image` is used up.

    Raises
    ------
    RuntimeError
        The pixels differ from those in the raw file: the simulator has changed since that was written.
    """
    detector, exposure = detector_of(scene.plan, scene.rcid), scene.exposure
    detector.respond(image, exposure.fid, exposure.exptime)
    rng = exposure_rng(scene.plan, exposure, scene.rcid, 61)
    hits = np.zeros_like(image)
    radiation(hits, rng, scene.plan.config.detector, exposure.exptime + READOUT_S, detector.gain)
    rows, columns = np.nonzero(hits)
    image[rows, columns] += hits[rows, columns]
    pixels, _ = detector.read(image, rng, exposure.jd - 2400000.5)
    if np.mean(pixels != scene.raw.quadrants[scene.qid - 1].pixels) > 1e-4:
        raise RuntimeError(f"{scene.folder} was made by another version of the simulator: remove it")
    labels, _ = ndimage.label(hits > 0, np.ones((3, 3), int))
    return {
        "hit_index": np.flatnonzero(hits),
        "hit_dn": hits[rows, columns],
        "hit_track": labels[rows, columns].astype(np.int32),
        "saturated": np.packbits(image > 0.97 * detector.well),
        "reflected": reflections(scene.plan, exposure, scene.rcid),
        "flat_level": np.array(_flat_level(scene)),
    }


def _lamp(scene: BenchScene, shape: tuple[int, int]) -> np.ndarray:
    """Relative illumination of the flats on a grid over the quadrant."""
    lamp = np.ones(shape, np.float32)
    simulator_kernels.apply_response(
        lamp, np.uint64(0), np.float32(0), detector_of(scene.plan, scene.rcid).lamp(scene.exposure.fid)
    )
    return lamp


def _flat_level(scene: BenchScene) -> float:
    """Median over the quadrant of true response times lamp, over the flat: what the flat was normalised by."""
    true = _lamp(scene, scene.camera.quadrant_shape)
    detector = detector_of(scene.plan, scene.rcid)
    simulator_kernels.apply_response(
        true, detector.keys[0], np.float32(scene.plan.config.detector.pixel_response_rms), detector.smooth(scene.exposure.fid)
    )  # fmt: skip
    return float(np.median(true[::4, ::4] / scene.flat.data[::4, ::4]))


def _flux_scale(scene: BenchScene, x: np.ndarray, y: np.ndarray, level: float) -> np.ndarray:
    """DN in the flat-fielded image per DN of a perfect detector at some places: level / lamp(x, y)."""
    grid = _lamp(scene, (33, 33))
    ny, nx = scene.camera.quadrant_shape
    at = np.stack([np.asarray(y) / (ny - 1) * 32, np.asarray(x) / (nx - 1) * 32])
    return level / ndimage.map_coordinates(grid.astype(float), at, order=3, mode="nearest")


def main(names: tuple[str, ...]) -> None:
    """Make scenes with all parts of their first quadrant and say what is in them."""
    for name in names:
        began = time.perf_counter()
        scene = load(name)
        truth = scene.truth
        detectable = int(np.count_nonzero(truth.sources["snr"] > 5))
        print(
            f"{name}: field {scene.exposure.fieldid}, {detectable} sources of S/N > 5 in quadrant 1, sky {truth.conditions.sky_dn:.0f} DN, "
            f"FWHM {truth.psf.fwhm(*scene.camera.centre_pixel):.2f} px, {truth.n_tracks} tracks of radiation, {len(truth.trails)} "
            f"trails, {np.count_nonzero(truth.saturated)} saturated pixels, {np.count_nonzero(truth.reflected > 1)} px of ghosts "
            f"and halos, airmass {truth.conditions.airmass:.2f}, gain {truth.gain:.3f} (nominal {GAIN_E_PER_DN}); "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or NAMES)
