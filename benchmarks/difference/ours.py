"""Our resampling, co-adding, differencing, alerting and whole chains as rows of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.difference.pairs import QID, Pair, calibrated, read_ccd
from benchmarks.measure import Stopwatch
from benchmarks.packets import past
from benchmarks.rows import Job
from ztfds.alerts import forced
from ztfds.alerts.packet import Packet, build_packet, identify
from ztfds.difference import quality
from ztfds.difference import run as difference
from ztfds.difference.candidates import passes_trigger
from ztfds.difference.matching import psf_error
from ztfds.difference.prepare import prepare
from ztfds.difference.products import DifferenceInputs, DifferenceProducts
from ztfds.difference.subtract import subtract
from ztfds.formats.images import read_image
from ztfds.formats.sections import open_sections
from ztfds.kernels import zogy as kernels
from ztfds.operations import storage
from ztfds.operations.forced import sky_to_pixel
from ztfds.operations.memory import give_back_freed_memory, keep_freed_memory
from ztfds.reference import run as reference
from ztfds.reference.coadd import coadd
from ztfds.reference.grid import coarse_grid, number, resample_image, resample_mask, resample_nearest, wcs_of
from ztfds.science.run import ScienceProducts
from ztfds.survey import bits, ids

Result = dict[str, Any]
Work = Callable[[], Result]
N_ALERTS = 30
"""Alerts of a quadrant."""


def resample(job: Job) -> Work:
    """The reference with its uncertainty and mask onto the grid of the science image."""
    pair = job.pair
    made, target, config = pair.reference(), pair.right_header(), pair.config.difference
    shape = (made.pixels.shape[0], made.pixels.shape[1])

    def work() -> Result:
        grid = coarse_grid(wcs_of(target), wcs_of(made.header), shape, config.grid_step_px)
        pixels = resample_image(np.nan_to_num(made.pixels), grid)
        resample_nearest(made.uncertainty, grid)
        resample_mask(made.mask, grid, config.mask_reach, bits.NAN)
        return {"pixels": pixels}

    return work


def co_add(job: Job) -> Work:
    """Fifteen calibrated images from their files to pixels, uncertainty, coverage and mask of a co-add."""
    pair, made = job.pair, job.pair.reference()
    wcs, shape = wcs_of(made.header), (made.pixels.shape[0], made.pixels.shape[1])
    del made
    return lambda: {"pixels": coadd(pair.inputs(), wcs, shape, pair.config.reference).pixels}


def whole_reference(job: Job) -> Work:
    """P7: fifteen calibrated images from their files to all products in files."""
    pair = job.pair

    def work() -> Result:
        made = reference.run(pair.inputs(), pair.config.reference)
        place = storage.reference_place(pair.exposure.fieldid, "zr", pair.camera.ccdids[0], QID)
        _write(storage.reference_files(made, place), job.folder)
        return {"pixels": made.pixels, "status": made.status}

    return work


def subtraction(job: Job) -> Work:
    """From registered and scaled images to Scorr normalised on blank sky."""
    pair = job.pair
    config = pair.config.difference
    inputs = pair.difference_inputs()
    outside = inputs.science.psf.outside if inputs.science.psf else 0.0
    ready = prepare(inputs, config)
    del inputs

    def work() -> Result:
        made = subtract(ready.new, ready.ref, ready.var_new, ready.var_ref, ready.tiles, outside)
        blank = quality.blank_sky(ready, made.score_ref, made.variance)
        error = psf_error(made.score, made.score_ref, made.variance, ready.match, config)
        dx, dy = ready.warp.scatter
        kernels.corrected_score(
            made.score, made.score_ref, float(dx * dx), float(dy * dy), error * error, made.variance
        )  # fmt: skip
        quality.normalised(made.variance, blank, ready)
        return {"significance": made.variance}

    return work


# -- pipeline 6 --------------------------------------------------------------------------------------------------------


def pipeline_6(job: Job) -> Work:
    """P6 of one quadrant; the science products are in memory, as they are when P5 has just made them.

    What it finds is judged on the exposure with many transients, before the clock starts; what it costs on that with few.
    """
    pair, earlier = job.pair, job.pair_inputs.earlier
    keep_freed_memory()  # as every worker does
    judged = _pipeline_6(pair, pair.science(), earlier, job.folder)
    science = pair.science(few=True)

    def work() -> Result:
        made = _pipeline_6(pair, science, earlier, job.folder)
        return judged | {name: made[name] for name in ("n_packets", "n_measured")}

    return work


def chain(job: Job) -> Work:
    """P2, P5 and P6 of one quadrant from the raw file (a quarter of the CCD's is charged) to all products in files, and packets."""
    pair, earlier = job.pair, job.pair_inputs.earlier
    keep_freed_memory()

    def work() -> Result:
        watch = Stopwatch()
        raw = read_ccd(pair, few=True)
        others = [0.75 * spent for spent in watch.read()]
        science = calibrated(pair, raw.header, raw.quadrants[QID - 1])
        _write(storage.science_files(science, storage.science_place(raw.name, QID)), job.folder)
        del raw
        give_back_freed_memory()  # as the real-time step does
        made = _pipeline_6(pair, science, earlier, job.folder)
        numbers = {name: made[name] for name in ("status", "n_packets", "n_measured")}
        return numbers | {"not_ours_cpu_s": others[0], "not_ours_wall_s": others[1]}

    return work


def _pipeline_6(pair: Pair, science: ScienceProducts, earlier: Sequence[Path], folder: Path) -> Result:
    """Reference and catalogs read, difference, forced photometry, packets, products written."""
    sky = pair.sky(science.header, science.pixels.shape)
    made = difference.run(DifferenceInputs(science, pair.reference(whole=False), *sky), pair.config.difference)
    wanted = [i for i, row in enumerate(made.candidates) if passes_trigger(row, pair.config.difference.candidates)]
    measured = _forced(pair, made, wanted[:N_ALERTS], earlier)
    packets = [_packet(pair, made, i, rows) for i, rows in zip(wanted, measured, strict=False)]
    size = sum(len(packet.content) for packet in packets)  # made when it is asked for
    raw_name = pair.exposure.raw_name(pair.camera.ccdids[0])
    files = storage.difference_files(made, storage.science_place(raw_name, QID))
    image = next(Path(file.path(1)).name for file in files if file.kind == "scimrefdiffimg")
    _write([*files, *storage.streak_files(made, raw_name, QID, image)], folder)
    return _judged(made, wanted) | {"n_packets": len(packets), "n_measured": len(made.candidates), "packet_bytes": size}


def _judged(made: DifferenceProducts, wanted: Sequence[int]) -> Result:
    """What the accuracy of P6 is judged by."""
    table = made.candidates
    alerted = np.zeros(len(table), bool)
    alerted[list(wanted)] = True
    return {
        "significance": made.scorr,
        "x": table["x"],
        "y": table["y"],
        "alerted": alerted,
        "score": table["drb"] if len(table) and np.isfinite(table["drb"]).all() else table["rb"],
        "status": made.status,
        "width_raw": made.qa["scorr_width_raw"],
        "warp_px": made.qa["warp_px"],
    }


def _write(files: Sequence[Any], folder: Path) -> None:
    for file in files:
        file.write(folder / Path(file.path(1)).name)


# -- forced photometry and packets -------------------------------------------------------------------------------------


def _forced(pair: Pair, made: DifferenceProducts, wanted: Sequence[int], earlier: Sequence[Path]) -> list[list[Result]]:
    """Forced photometry of some candidates on the earlier images, as the real-time step does it but for the database."""
    table, config = made.candidates[list(wanted)], pair.config.alerts.forced
    rows: list[list[Result]] = [[] for _ in wanted]
    if not len(table):
        return rows
    for path in earlier:
        image = open_sections(path, ("GAIN", "SEEING", "MEDSKY", "SKYSIG"), path.stat().st_size)
        psf = read_image(path.with_name(path.name.replace("scimrefdiffimg.fits.fz", "diffimgpsf.fits")))[0]
        x, y = sky_to_pixel(image.header, table["ra"], table["dec"])
        row, column = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
        stamps = image.stamps(row, column, config.stamp_half_px)
        gain = number(image.header, "GAIN", np.nan)
        flux = forced.measure(stamps, psf, y - row, x - column, gain, config)
        for k, found in enumerate(rows):
            found.append(_forced_row(table[k], flux, k))
    return rows


def _forced_row(candidate: np.void, flux: Any, k: int) -> Result:
    """One row of ``fp_hists``."""
    copied = ("field", "rcid", "fid", "pid", "rfid", "magzpsci", "exptime", "diffmaglim", "programid", "jd")
    values = {name: candidate[name].item() for name in copied}
    return values | {
        "forcediffimflux": flux.flux[k], "forcediffimfluxunc": flux.error[k], "procstatus": flux.status[k],
    }  # fmt: skip


def _packet(pair: Pair, made: DifferenceProducts, i: int, rows: Sequence[Mapping[str, Any]]) -> Packet:
    """One complete packet with 41 rows of history."""
    row = made.candidates[i]
    jd, channel = float(row["jd"]), int(row["rcid"])
    pid, candid = identify(jd, channel, str(row["isdiffpos"]) == "t", int(row["tblid"]))
    facts = {"pid": pid, "candid": candid, "nid": ids.nid(jd), "ndethist": 3, "ncovhist": len(rows), "jdstarthist": jd - 20,
             "jdendhist": jd, "pdiffimfilename": "difference.fits.fz"}  # fmt: skip
    return build_packet(
        row, facts, objectid="ZTF20aaaaaaa", prv_candidates=past(np.random.default_rng(i)), fp_hists=rows,
        cutouts=made.cutouts[int(row["tblid"])], config=pair.config.alerts,
    )  # fmt: skip
