"""The rows of the benchmark: which step, which tool, how it is set up, run and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import accuracy
from benchmarks.inputs import StepInputs, step_inputs, write_fits_pair
from benchmarks.measure import Stopwatch
from benchmarks.tools import astromatic, pythonic

if TYPE_CHECKING:  # see benchmarks.inputs
    from benchmarks.difference.inputs import PairInputs
    from benchmarks.difference.pairs import Pair
    from benchmarks.scenes import BenchScene

Result = dict[str, Any]
Work = Callable[[], Result]
BOTH, QUIET = ("quiet", "plane"), ("quiet",)
JUDGES = {"quiet": "quiet-1001", "plane": "plane-1001"}
"""Scenes that judge; seeds below 1000 are for tuning."""
N_PLANTED = 4000
PLANTED_DN = (60.0, 20000.0)


@dataclass(frozen=True)
class Job:
    """One row on one scene.

    Attributes
    ----------
    name : str
        The scene's.
    folder : Path
        Scratch folder.
    """

    name: str
    folder: Path

    @cached_property
    def inputs(self) -> StepInputs:
        """Inputs of single steps."""
        return step_inputs(self.name)

    @property
    def scene(self) -> BenchScene:
        """The scene."""
        return self.inputs.scene

    @cached_property
    def pair_inputs(self) -> PairInputs:
        """Inputs of subtraction tools, of rows that work on pairs."""
        from benchmarks.difference.inputs import pair_inputs

        return pair_inputs(self.name)

    @property
    def pair(self) -> Pair:
        """The pair."""
        return self.pair_inputs.pair

    @cached_property
    def sources(self) -> accuracy.SourceTruth:
        """True sources, for judging."""
        return accuracy.SourceTruth(self.inputs)


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes
    ----------
    step, tool : str
    prepare : callable
        From the job to the work that is measured; what it does itself is not.
    judge : callable
        From the job and the result to the numbers of accuracy.
    fields : tuple of str
        Kinds of scenes that it runs on.
    needs : tuple of str
        Programs and Python packages without which it cannot run.
    external : bool
        The work is done by programs of their own: memory is theirs.
    note : str
        What the reader must know.
    judges : dict
        Scene, or pair of images, that it is judged on in each field.
    """

    step: str
    tool: str
    prepare: Callable[[Job], Work]
    judge: Callable[[Job, Result], Result]
    fields: tuple[str, ...] = BOTH
    needs: tuple[str, ...] = ()
    external: bool = False
    note: str = ""
    judges: dict[str, str] = field(default_factory=lambda: JUDGES)


# -- judging -----------------------------------------------------------------------------------------------------------


def _ours(name: str) -> Any:
    """Work of `benchmarks.ours`, which is imported by the processes that need it."""
    return lambda job: getattr(import_module("benchmarks.ours"), name)(job)


def _stack(name: str, *arguments: Any) -> Any:
    """Work or judgement of `benchmarks.stacks`."""
    return lambda job, *made: getattr(import_module("benchmarks.stacks"), name)(job.scene, *arguments, *made)


def _nothing(job: Job, made: Result) -> Result:
    return {}


def _image(job: Job, made: Result) -> Result:
    return accuracy.image_numbers(job.inputs, made["pixels"])


def _hits(job: Job, made: Result) -> Result:
    return accuracy.cosmic_ray_numbers(job.inputs, made["flagged"])


def _sky(job: Job, made: Result) -> Result:
    return accuracy.sky_numbers(job.inputs, made["level"])


def _catalog(job: Job, made: Result) -> Result:
    return accuracy.catalog_numbers(job.sources, made)


def _photometry(job: Job, made: Result) -> Result:
    return _catalog(job, made) | accuracy.photometry_numbers(job.sources, made)


def _astrometry(job: Job, made: Result) -> Result:
    return accuracy.astrometry_numbers(job.inputs, made["header"])


def _zeropoint(job: Job, made: Result) -> Result:
    return accuracy.zeropoint_numbers(job.inputs, made["magzp"], made["clrcoeff"])


def _psf_stamp(job: Job, made: Result) -> Result:
    return {"stamp_px": float(made["stamp"].shape[0])}


def _chain(job: Job, made: Result) -> Result:
    out = _photometry(job, made) | _hits(job, made) | _astrometry(job, made) | _zeropoint(job, made)
    # Fluxes of some tools miss a constant share of the light, which their zero points make up for.
    out["calibrated_error_mmag"] = out["flux_bias_mmag"] + out["zp_error_mmag"]
    return out | accuracy.bright_star_positions(job.sources, made) | (_sky(job, made) if "level" in made else {})


# -- chains of other tools ---------------------------------------------------------------------------------------------


def _tool_chain(job: Job, iterations: int, **psfex_more: Any) -> Work:
    """astropy, ccdproc, astroscrappy, SExtractor, PSFEx, SExtractor with the model, SCAMP, a straight-line zero point."""
    inputs, facts = job.inputs, job.inputs.facts
    guess, ps1, gaia = inputs.guess, inputs.ps1, inputs.gaia
    bias, flat, cmask = (inputs.array(name) for name in ("bias", "flat", "cmask"))
    q = inputs.qid - 1

    def work() -> Result:
        watch = Stopwatch()
        raw = pythonic.read_all(Path(facts["raw_path"]))
        others = [0.75 * spent for spent in watch.read()]
        pixels = pythonic.detrend(raw[q], raw[q + 4], bias, flat)["pixels"]
        mask = pythonic.simple_mask(pixels, cmask, facts)
        flagged, cleaned = pythonic.lacosmic(pixels, mask, facts, iterations)
        write_fits_pair(job.folder, cleaned, mask, facts, guess)
        first, rows = astromatic.psf_chain(job.folder / "image.fits", facts, job.folder, **psfex_more)
        made = astromatic.psf_fluxes(rows)
        text = astromatic.scamp(first, gaia, facts["epoch"], job.folder)
        header = np.array(astromatic.head_to_header(text).tostring(sep="\n"))
        ra, dec = accuracy.wcs_of(header).all_pix2world(made["x"], made["y"], 0)
        zero = pythonic.straight_line_zeropoint(made["flux"], ra, dec, ps1, made["error"])
        return made | zero | {
            "flagged": flagged, "header": header, "not_ours_cpu_s": others[0], "not_ours_wall_s": others[1],
        }  # fmt: skip

    return work


def _scamp(job: Job) -> Work:
    """SCAMP on a catalog that SExtractor made before."""
    catalog = astromatic.psf_input(job.inputs, job.folder)
    gaia, epoch = job.inputs.gaia, job.inputs.facts["epoch"]

    def work() -> Result:
        text = astromatic.scamp(catalog, gaia, epoch, job.folder)
        return {"header": np.array(astromatic.head_to_header(text).tostring(sep="\n"))}

    return work


def _psfex(job: Job, **more: Any) -> Work:
    """PSFEx on a catalog that SExtractor made before."""
    catalog = astromatic.psf_input(job.inputs, job.folder)

    def work() -> Result:
        astromatic.psfex(catalog, job.folder, **more)
        return {"stamp": np.empty((25, 25))}

    return work


def _sip(job: Job) -> Work:
    return partial(pythonic.fit_sip, *job.inputs.array("matched"))


def _line(job: Job) -> Work:
    rows = job.inputs.array("psfcat")
    return partial(
        pythonic.straight_line_zeropoint, rows["flux"], rows["ra"], rows["dec"], job.inputs.ps1, rows["sigflux"]
    )


def _ccdproc_detrend(job: Job) -> Work:
    return partial(pythonic.detrend, *(job.inputs.array(name) for name in ("raw", "overscan", "bias", "flat")))


def _astropy_read(job: Job) -> Work:
    return partial(pythonic.read_raw, Path(job.inputs.facts["raw_path"]))


def _of_inputs(function: Callable[..., Result], *arguments: Any, **more: Any) -> Callable[[Job], Work]:
    """Work on the step inputs, loaded before the clock starts."""

    def prepare(job: Job) -> Work:
        inputs = job.inputs
        for name in ("pixels", "mask", "known", "facts"):
            getattr(inputs, name)
        return partial(function, inputs, *arguments, **more)

    return prepare


def _of_program(function: Callable[..., Result], **more: Any) -> Callable[[Job], Work]:
    return lambda job: partial(function, job.inputs, job.folder, **more)


# -- the table ---------------------------------------------------------------------------------------------------------

_SEX, _ALL_ASTROMATIC = (astromatic.SEXTRACTOR,), (astromatic.SEXTRACTOR, "psfex", "scamp")
_LIGHT = {"BASIS_TYPE": "NONE", "PSF_SIZE": "21,21", "PSF_SAMPLING": 1.0, "PSFVAR_DEGREES": 1, "SAMPLE_MINSN": 100}
_BIAS, _FLAT = _stack("judge_bias"), _stack("judge_flat")
_FROM_RAW = "from raw integers: overscan models included"
_FLAT_OURS = "from raw integers: overscan, linearity, bias, normalisation included"
_PREPARED = "given float32 frames without overscan"
_STEP = "matched stars given"

ROWS: tuple[Row, ...] = (
    Row("read CCD file", "ours", _ours("read"), _nothing, QUIET, note="checksums verified"),
    Row("read CCD file", "astropy", _astropy_read, _nothing, QUIET),
    Row("detrend", "ours", _ours("detrending"), _image, QUIET, note="linearity and masks included"),
    Row("detrend", "ccdproc", _ccdproc_detrend, _image, QUIET, ("ccdproc",)),
    Row("bias of 20", "ours", _stack("bias"), _BIAS, QUIET, note=_FROM_RAW),
    Row("bias of 20", "ccdproc", _stack("bias_by", pythonic.combine_ccdproc), _BIAS, QUIET, ("ccdproc",), note=_PREPARED),
    Row("bias of 20", "numpy median", _stack("bias_by", pythonic.combine_median), _BIAS, QUIET, note=_PREPARED),
    Row("flat of 20", "ours", _stack("flat"), _FLAT, QUIET, note=_FLAT_OURS),
    Row("flat of 20", "ccdproc", _stack("flat_by", pythonic.combine_ccdproc), _FLAT, QUIET, ("ccdproc",), note=_PREPARED),
    Row("flat of 20", "numpy median", _stack("flat_by", pythonic.combine_median), _FLAT, QUIET, note=_PREPARED),
    Row("cosmic rays", "ours", _ours("cosmic_rays"), _hits),
    Row("cosmic rays", "astroscrappy, 4 iterations", _of_inputs(pythonic.cosmic_rays, 4), _hits, BOTH, ("astroscrappy",)),
    Row("cosmic rays", "astroscrappy, 1 iteration", _of_inputs(pythonic.cosmic_rays, 1), _hits, BOTH, ("astroscrappy",)),
    Row("cosmic rays", "ccdproc", _of_inputs(pythonic.cosmic_rays_ccdproc), _hits, QUIET, ("ccdproc", "astroscrappy")),
    Row("sky", "ours", _ours("sky"), _sky),
    Row("sky", "sep", _of_inputs(pythonic.background_sep), _sky, BOTH, ("sep",)),
    Row("sky", "photutils", _of_inputs(pythonic.background_photutils), _sky, BOTH, ("photutils",)),
    Row("detection", "ours", _ours("detection"), _catalog, note="with sky, seeing and moments"),
    Row("detection", "SExtractor", _of_program(astromatic.detection), _catalog, BOTH, _SEX, True),
    Row("detection", "sep", _of_inputs(pythonic.detection_sep), _catalog, BOTH, ("sep",)),
    Row("detection", "photutils", _of_inputs(pythonic.detection_photutils), _catalog, BOTH, ("photutils",)),
    Row("aperture catalog", "ours", _ours("aperture_catalog"), _photometry),
    Row("aperture catalog", "SExtractor", _of_program(astromatic.apertures), _photometry, BOTH, _SEX, True),
    Row("PSF model", "ours", _ours("psf_model"), _psf_stamp),
    Row("PSF model", "PSFEx", _psfex, _psf_stamp, BOTH, (*_SEX, "psfex"), True),
    Row("PSF model", "PSFEx, light", partial(_psfex, **_LIGHT), _psf_stamp, BOTH, (*_SEX, "psfex"), True),
    Row("PSF model", "photutils", _of_inputs(pythonic.psf_model_photutils), _psf_stamp, QUIET, ("photutils",), note="with detection"),
    Row("PSF photometry", "ours", _ours("psf_photometry"), _photometry),
    Row("PSF photometry", "SExtractor + PSFEx", _of_program(astromatic.psf_photometry), _photometry, BOTH, (*_SEX, "psfex"), True),
    Row("PSF photometry", "SExtractor + PSFEx, light", _of_program(astromatic.psf_photometry, **_LIGHT), _photometry, BOTH,
        (*_SEX, "psfex"), True),
    Row("PSF photometry", "photutils", _of_inputs(pythonic.psf_photometry_photutils), _photometry, BOTH, ("photutils",)),
    Row("astrometry", "ours", _ours("astrometry"), _astrometry),
    Row("astrometry", "SCAMP", _scamp, _astrometry, BOTH, (*_SEX, "scamp"), True),
    Row("astrometry", "astropy", _sip, _astrometry, BOTH, note=_STEP),
    Row("zero point", "ours", _ours("zero_point"), _zeropoint),
    Row("zero point", "numpy straight line", _line, _zeropoint),
    Row("whole chain", "ours", _ours("chain"), _chain, note="all products written"),
    Row("whole chain", "SExtractor + PSFEx + SCAMP + astroscrappy (4)", lambda j: _tool_chain(j, 4), _chain, BOTH,
        (*_ALL_ASTROMATIC, "astroscrappy", "ccdproc")),
    Row("whole chain", "the same, lightest (1 iteration, small PSF)", lambda j: _tool_chain(j, 1, **_LIGHT), _chain, BOTH,
        (*_ALL_ASTROMATIC, "astroscrappy", "ccdproc")),
)  # fmt: skip


def all_rows() -> tuple[Row, ...]:
    """These rows, and those of references, differences and alerts."""
    return (*ROWS, *import_module("benchmarks.difference.rows").ROWS)


def find(step: str, tool: str) -> Row:
    """The row of a step and a tool; raise `LookupError` without one."""
    for row in all_rows():
        if (row.step, row.tool) == (step, tool):
            return row
    raise LookupError(f"no row {step!r} by {tool!r}")
