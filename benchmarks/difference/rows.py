"""The rows of references, differences and alerts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.difference.inputs import JUDGES
from benchmarks.rows import BOTH, QUIET, Row
from benchmarks.tools.resampling import PROGRAM as SWARP

if TYPE_CHECKING:
    from benchmarks.rows import Job

Result = dict[str, Any]
Work = Callable[[], Result]
N_PACKETS = 60
RESAMPLING, COADD, REFERENCE = "resample reference", "co-add of 15", "reference (P7)"
SUBTRACTION, DIFFERENCE, CHAIN, PACKETS = "subtraction", "P6", "P2 + P5 + P6", "60 alert packets"


def _ours(name: str) -> Callable[[Job], Work]:
    """Work of `benchmarks.difference.ours`, which is imported by the processes that need it."""
    return lambda job: getattr(import_module("benchmarks.difference.ours"), name)(job)


def _by(name: str, *arguments: Any, folder: bool = True) -> Callable[[Job], Work]:
    """Work of `benchmarks.tools.resampling`."""

    def prepare(job: Job) -> Work:
        function = getattr(import_module("benchmarks.tools.resampling"), name)
        return function(job.pair, *((job.folder,) if folder else ()), *arguments)

    return prepare


def _subtracted_by(name: str) -> Callable[[Job], Work]:
    """Work of `benchmarks.tools.subtraction`."""
    return lambda job: getattr(import_module("benchmarks.tools.subtraction"), name)(job.pair_inputs, job.folder)


# -- judging -----------------------------------------------------------------------------------------------------------


def _judge(name: str) -> Any:
    return getattr(import_module("benchmarks.difference.judge"), name)


def _resampling(job: Job, made: Result) -> Result:
    return _judge("resampling_numbers")(job.pair, made["pixels"])


def _coadd(job: Job, made: Result) -> Result:
    return _judge("coadd_numbers")(job.pair, made["pixels"])


def _significance(job: Job, made: Result) -> Result:
    return _judge("significance_numbers")(job.pair_inputs, made["significance"])


def _plain_difference(job: Job, made: Result, part: tuple[int, int, int, int] | None = None) -> Result:
    """A difference image without Scorr: through the matched filter first."""
    inputs = job.pair_inputs
    usable, blank = ~inputs.array("blocked"), job.pair.blank
    box = np.s_[part[0] : part[1], part[2] : part[3]] if part else np.s_[:, :]
    psf = inputs.array("psf_new")[inputs.middle]
    image = _judge("filtered_significance")(made["diff"], made["noise"], psf, blank[box], usable[box])
    numbers = _judge("significance_numbers")(inputs, image, list(part) if part else None)
    return {name: value for name, value in numbers.items() if name != "sky_width"}


def _sfft(job: Job, made: Result) -> Result:
    from benchmarks.tools.subtraction import SFFT_PART

    return _plain_difference(job, made, SFFT_PART)


def _pipeline_6(job: Job, made: Result) -> Result:
    """Scorr, candidates and alerts."""
    if not int(made["status"]):
        return {"status": 0.0}
    counts = {name: float(made[name]) for name in ("n_packets", "n_measured")}
    return _significance(job, made) | _judge("candidate_numbers")(job.pair_inputs, made) | counts


def _nothing(job: Job, made: Result) -> Result:
    return {name: float(value) for name, value in made.items() if np.ndim(value) == 0}


# -- packets -----------------------------------------------------------------------------------------------------------


def _packets(job: Job, by_hand: bool) -> Work:
    """Complete packets with cutouts, 41 rows of history and 20 of forced photometry."""
    import fastavro

    from benchmarks import packets
    from ztfds.alerts.packet import build_packet
    from ztfds.config.alerts import AlertConfig
    from ztfds.formats.alertschema import alert_schema

    alerts = packets.arguments(N_PACKETS, np.random.default_rng(1001))
    config, schema = AlertConfig(), fastavro.parse_schema(alert_schema())
    make = (lambda alert: packets.by_hand(alert, schema)) if by_hand else (
        lambda alert: build_packet(**alert, config=config).content
    )  # fmt: skip
    return lambda: {"packet_bytes": sum(len(make(alert)) for alert in alerts) / N_PACKETS}


# -- the table ---------------------------------------------------------------------------------------------------------

_GIVEN = "given images registered, scaled and bridged by our first half"
_COMMON = f"{_GIVEN}; matched filter and detector ours"
_row = partial(Row, judges=JUDGES)

ROWS: tuple[Row, ...] = (
    _row(RESAMPLING, "ours", _ours("resample"), _resampling, note="with uncertainty and mask"),
    _row(RESAMPLING, "SWarp Lanczos3", _by("reference_by_swarp"), _resampling, BOTH, (SWARP,), True, "with weight"),
    _row(RESAMPLING, "reproject, bicubic", _by("reference_by_reproject", "bicubic", folder=False), _resampling, QUIET, ("reproject",)),
    _row(RESAMPLING, "reproject, adaptive", _by("reference_by_reproject", "adaptive", folder=False), _resampling, QUIET, ("reproject",)),
    _row(COADD, "ours", _ours("co_add"), _coadd, note="from files, sky taken out, outliers rejected, with uncertainty and mask"),
    _row(COADD, "SWarp clipped", _by("coadd_by_swarp", "CLIPPED"), _coadd, BOTH, (SWARP,), True, "from files, sky taken out"),
    _row(COADD, "SWarp weighted", _by("coadd_by_swarp", "WEIGHTED"), _coadd, QUIET, (SWARP,), True,
         "from files, sky taken out, nothing rejected"),
    _row(REFERENCE, "ours", _ours("whole_reference"), _coadd, note="from files to all products, both catalogs included"),
    _row(SUBTRACTION, "ours", _ours("subtraction"), _significance, note="from registered images to Scorr"),
    _row(SUBTRACTION, "PyZOGY", _subtracted_by("pyzogy"), _significance, BOTH, ("PyZOGY", "statsmodels", "sep"),
         note=f"{_GIVEN}, with the PSF of the middle tile and the flux ratio"),
    _row(SUBTRACTION, "ZOGY", _subtracted_by("zogy"), _significance, BOTH, ("ZOGY", "pyfftw"),
         note=f"{_GIVEN}, in 16 parts with their own PSFs, flux ratio and registration noise"),
    _row(SUBTRACTION, "hotpants", _subtracted_by("hotpants"), _plain_difference, BOTH, ("hotpants",), True, _COMMON),
    _row(SUBTRACTION, "sfft (CPU), a quarter of the image", _subtracted_by("sfft_cpu"), _sfft, QUIET, ("sfft",),
         note=f"{_COMMON}; a quarter, for memory: times four for a quadrant, counts likewise"),
    _row(DIFFERENCE, "ours", _ours("pipeline_6"), _pipeline_6,
         note="registration to packets with forced photometry on 20 images, products written; database apart"),
    _row(CHAIN, "ours", _ours("chain"), _nothing, note="raw file to packets, all products written; database apart"),
    _row(PACKETS, "ours", partial(_packets, by_hand=False), _nothing, QUIET),
    _row(PACKETS, "astropy + gzip + fastavro", partial(_packets, by_hand=True), _nothing, QUIET),
)  # fmt: skip
