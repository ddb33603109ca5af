"""The steps of this project as rows of the benchmark: set up from files, run on arrays, results in the common form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from benchmarks.inputs import StepInputs
from benchmarks.measure import Stopwatch
from benchmarks.rows import Job
from benchmarks.scenes import CATALOG_MARGIN_DEG, BenchScene
from ztfds.astrometry.solve import AstrometricSolution, solve
from ztfds.calibration.products import CalibrationImage
from ztfds.detrend.apply import detrend
from ztfds.detrend.split import split
from ztfds.formats.catalogs import StaticCatalogs
from ztfds.formats.images import read_image, write_image
from ztfds.formats.raw import read_raw
from ztfds.operations import storage
from ztfds.operations.memory import keep_freed_memory
from ztfds.photometry import apertures, background, measure, zeropoint
from ztfds.science import run as science
from ztfds.science.masks import mask_artifacts
from ztfds.science.pointing import pointing
from ztfds.survey import bits, filters

Result = dict[str, Any]
Work = Callable[[], Result]


def read(job: Job) -> Work:
    """Reading and verifying the raw file of a CCD."""
    scene = job.scene

    def work() -> Result:
        return {"pixels": read_raw(scene.raw_path, scene.camera.quadrant_shape).quadrants[0].pixels}

    return work


def detrending(job: Job) -> Work:
    """P2 and the first part of P5: overscan, linearity, saturation, bias, flat, mask with bleeding grown."""
    scene = job.scene
    raw, config = scene.raw, scene.config
    quadrant, bias, flat = raw.quadrants[scene.qid - 1], scene.bias, scene.flat

    def work() -> Result:
        pixels, mask = detrend(split(quadrant, raw.header, config.split), bias, flat, config.science.detrend)
        return {"pixels": pixels, "mask": mask}

    return work


def cosmic_rays(job: Job) -> Work:
    """Radiation hits; tracks, ghosts and halos left out. The sky map is an input, as it is in the pipeline."""
    inputs = job.inputs
    config = inputs.scene.config.science
    seen = _prepared(inputs, inputs.mask)
    level, fwhm = seen.background.level, seen.fwhm_px
    only_hits = config.masks.model_copy(update={"track_max": 0, "ghosts": ()})

    def work() -> Result:
        facts = inputs.facts
        found = mask_artifacts(
            inputs.pixels, inputs.mask, level, facts["gain"], facts["readnoise"], fwhm, only_hits
        )  # fmt: skip
        return {"flagged": (found.mask & np.uint16(bits.SPIKE)) != 0}

    return work


def sky(job: Job) -> Work:
    """Sky level and noise on a mesh, and the map of it."""
    inputs = job.inputs
    usable, facts = ~inputs.bad, inputs.facts
    config = inputs.scene.config.science.photometry.background

    def work() -> Result:
        return {"level": background.estimate(inputs.pixels, usable, config, facts["gain"], facts["readnoise"]).level}

    return work


def _prepared(inputs: StepInputs, mask: np.ndarray) -> measure.Scene:
    facts = inputs.facts
    config = inputs.scene.config.science.photometry
    return measure.prepare(inputs.pixels, mask, facts["gain"], facts["readnoise"], facts["saturate"], config)


def detection(job: Job) -> Work:
    """Sky, seeing, detection, moments of the brighter sources."""
    inputs = job.inputs

    def work() -> Result:
        found = _prepared(inputs, inputs.known).found
        return {"x": found.x, "y": found.y, "flux": found.flux}

    return work


def psf_model(job: Job) -> Work:
    """The PSF of the quadrant."""
    inputs = job.inputs
    seen, config = _prepared(inputs, inputs.known), inputs.scene.config.science.photometry

    def work() -> Result:
        return {"stamp": measure.model_psf(seen, config).centre_stamp()}

    return work


def psf_photometry(job: Job) -> Work:
    """Sky, detection, PSF, simultaneous fit of everything, with residual detections."""
    inputs = job.inputs

    def work() -> Result:
        rows = _fitted(inputs).catalog
        return {"x": rows["xpos"], "y": rows["ypos"], "flux": rows["flux"], "error": rows["sigflux"]}

    return work


def _fitted(inputs: StepInputs) -> measure.PsfPhotometry:
    config = inputs.scene.config.science.photometry
    seen = _prepared(inputs, inputs.known)
    return measure.fit_scene(seen, measure.model_psf(seen, config), config)[0]


def aperture_catalog(job: Job) -> Work:
    """Isophotal detection, shapes, six apertures (on `sep`)."""
    inputs = job.inputs
    seen, config = _prepared(inputs, inputs.known), inputs.scene.config.science.photometry

    def work() -> Result:
        made = apertures.aperture_catalog(
            seen.data, seen.usable, seen.mask, seen.background, seen.gain, config.apertures, config.fit.edge_px
        )
        rows = made[0] if isinstance(made, tuple) else made
        return {
            "x": rows["XWIN_IMAGE"],
            "y": rows["YWIN_IMAGE"],
            "flux": rows["FLUX_APER"][:, 4],
            "error": rows["FLUXERR_APER"][:, 4],
        }

    return work


def _solution(inputs: StepInputs, seen: measure.Scene) -> AstrometricSolution:
    """The astrometric solution from detections of a prepared scene, as in pipeline 5."""
    config, shapes = inputs.scene.config.science, seen.shapes
    n = shapes.x.size
    usable = np.isfinite(shapes.fwhm) & (shapes.fwhm > 0.6 * seen.fwhm_px) & (shapes.fwhm < 2.0 * seen.fwhm_px)
    gaia = inputs.gaia[inputs.gaia["gmag"] < config.gaia_faint_mag]
    return solve(
        shapes.x, shapes.y, seen.found.flux[:n], seen.data.shape, inputs.guess, gaia, config.astrometry,
        snr=seen.found.snr[:n], fwhm_px=seen.fwhm_px, usable=usable,
    )  # fmt: skip


def astrometry(job: Job) -> Work:
    """Blind matching and distortion fit to Gaia."""
    inputs = job.inputs
    seen = _prepared(inputs, inputs.known)
    return lambda: {"header": _header_text(_solution(inputs, seen))}


def _header_text(solution: AstrometricSolution) -> np.ndarray:
    """The cards of a solution as an array of one text."""
    header = fits.Header()
    for keyword, value in solution.header.items():
        header[keyword] = value
    return np.array(header.tostring(sep="\n"))


def keep_catalogs(inputs: StepInputs) -> None:
    """Write what rows of single steps need of earlier ones: matched stars (x, y, ra, dec) and the PSF catalog with positions."""
    seen = _prepared(inputs, inputs.known)
    solution = _solution(inputs, seen)
    gaia = inputs.gaia[inputs.gaia["gmag"] < inputs.scene.config.science.gaia_faint_mag][solution.gaia_index]
    which = solution.detection_index
    np.save(
        inputs.folder / "matched.npy", np.stack([seen.shapes.x[which], seen.shapes.y[which], gaia["ra"], gaia["dec"]])
    )
    rows = _fitted(inputs).catalog
    rows["ra"], rows["dec"] = solution.wcs.all_pix2world(rows["xpos"], rows["ypos"], 0)
    np.save(inputs.folder / "psfcat.npy", rows)


def zero_point(job: Job) -> Work:
    """Zero point, colour term, spatial residuals against PS1."""
    inputs = job.inputs
    rows, config, facts = inputs.array("psfcat"), inputs.scene.config.science.zeropoint, inputs.facts

    def work() -> Result:
        made = zeropoint.calibrate(
            rows, inputs.ps1, filters.by_fid(inputs.scene.exposure.fid), config, shape=inputs.pixels.shape,
            airmass=facts["airmass"], exptime_s=facts["exptime"],
        )  # fmt: skip
        return {"magzp": made.magzp, "clrcoeff": made.clrcoeff}

    return work


def chain(job: Job) -> Work:
    """P2 and P5 of one quadrant with reading (a quarter of the CCD's file is charged) and writing of all products."""
    scene, folder = job.scene, job.folder
    calibration = _calibration_files(scene, folder)
    catalogs, config = StaticCatalogs(scene.catalogs), scene.config
    products = folder / "products"
    keep_freed_memory()  # as every worker does

    def work() -> Result:
        watch = Stopwatch()
        raw = read_raw(scene.raw_path, scene.camera.quadrant_shape)
        others = [0.75 * spent for spent in watch.read()]
        quadrant = raw.quadrants[scene.qid - 1]
        view = pointing(raw.header, quadrant.header, scene.camera, raw.name.ccdid, scene.qid)
        made = science.run(
            science.ScienceInputs(
                split=split(quadrant, raw.header, config.split),
                primary=raw.header,
                bias=_read_calibration(calibration["bias"]),
                flat=_read_calibration(calibration["flat"]),
                gaia=view.catalog(partial(catalogs.gaia, epoch_jd=float(raw.header["OBSJD"])), CATALOG_MARGIN_DEG),
                ps1=view.catalog(catalogs.ps1, CATALOG_MARGIN_DEG),
                camera=scene.camera,
            ),
            config.science,
        )
        for file in storage.science_files(made, storage.science_place(raw.name, scene.qid)):
            file.write(products / Path(file.path(1)).name)
        return _judged(made) | {"not_ours_cpu_s": others[0], "not_ours_wall_s": others[1]}

    return work


def _judged(made: science.ScienceProducts) -> Result:
    """What the accuracy of a whole chain is judged by."""
    rows = made.psfcat
    if rows is None:
        raise RuntimeError("; ".join(made.reasons))
    wcs_cards = fits.Header([card for card in made.header.cards if card.keyword.strip()])
    return {
        "flagged": (made.mask & np.uint16(bits.SPIKE)) != 0,
        "mask": made.mask,
        "level": made.background.level,
        "x": rows["xpos"],
        "y": rows["ypos"],
        "flux": rows["flux"],
        "error": rows["sigflux"],
        "header": np.array(wcs_cards.tostring(sep="\n")),
        "magzp": float(made.header.get("MAGZP", np.nan)),
        "clrcoeff": float(made.header.get("CLRCOEFF", np.nan)),
    }


def _calibration_files(scene: BenchScene, folder: Path) -> dict[str, tuple[Path, ...]]:
    """Bias and flat as the archive has them: the FITS files that are read in real time."""
    out = {}
    for kind in ("bias", "flat"):
        image: CalibrationImage = getattr(scene, kind)
        paths = tuple(folder / f"{kind}{part}.fits" for part in ("", "cmask"))
        for path, array in zip(paths, (image.data, image.cmask), strict=True):
            write_image(path, array, image.header)
        out[kind] = paths
        scene.__dict__.pop(kind)  # its pixels are in the files now
    return out


def _read_calibration(paths: tuple[Path, ...]) -> CalibrationImage:
    """As `operations.afternoon.read_calibration` does, without the uncertainty."""
    (data, header), (cmask, _) = (read_image(path) for path in paths)
    unknown = np.broadcast_to(np.float32(np.nan), data.shape)
    return CalibrationImage(data, unknown, cmask.astype(np.uint16, copy=False), {}, header)
