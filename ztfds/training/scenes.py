"""Simulated nights for the real/bogus models: small quadrants of the full-size camera through P2, P5 and P7 of the pipeline."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ztfds.calibration.bias import stack_bias
from ztfds.calibration.flat import stack_flat
from ztfds.calibration.products import CalibrationImage
from ztfds.config.detrend import BiasConfig, FlatConfig, SplitConfig
from ztfds.config.difference import ReferenceConfig
from ztfds.config.photometry import ScienceConfig
from ztfds.detrend.split import split
from ztfds.difference.products import DifferenceInputs
from ztfds.formats.catalogs import StaticCatalogs
from ztfds.formats.raw import RawQuadrant
from ztfds.reference.products import ReferenceInput, ReferenceProducts
from ztfds.reference.run import run as make_reference
from ztfds.science.pointing import pointing
from ztfds.science.run import ScienceInputs, ScienceProducts
from ztfds.science.run import run as run_science
from ztfds.simulator.camera import Defects
from ztfds.simulator.config import DetectorConfig, OpticsConfig, SimulatorConfig, SkyConfig
from ztfds.simulator.exposure import Rendered, detector_of, render
from ztfds.simulator.headers import primary_header, quadrant_header
from ztfds.simulator.schedule import Plan, PlannedExposure, conditions, make_plan, visible_fields
from ztfds.simulator.truth import write_catalogs
from ztfds.survey.camera import CCD, Camera, ccd_qid
from ztfds.survey.errors import ZtfdsError

log = logging.getLogger(__name__)

DATES = ("20180410", "20180614", "20180917", "20181103", "20190205", "20190321", "20190828", "20200120", "20200501")
"""Science nights, with and without a moon."""
FILTERS = ("zg", "zr", "zi")
CATALOG_MARGIN_DEG = 0.05
N_BIAS, N_FLAT = 5, 5


@dataclass(frozen=True)
class SceneSpec:
    """One quadrant on two nights: everything else follows from the seed.

    Attributes
    ----------
    seed : int
    sky : str
        'quiet' or 'plane'.
    rich : bool
        Whether artefacts and variables are made frequent; False is a night as the survey would have it.
    side_px : int
        Side of the quadrant.
    epochs : int
        Exposures on either night; all of a night make one reference.
    """

    seed: int
    sky: str = "quiet"
    rich: bool = True
    side_px: int = 1024
    epochs: int = 6


@dataclass(frozen=True)
class Epoch:
    """A calibrated image with what is truly in it."""

    exposure: PlannedExposure
    science: ScienceProducts
    truth: np.ndarray
    gaia: np.ndarray
    ps1: np.ndarray


@dataclass(frozen=True)
class Pair:
    """One image to be differenced.

    Attributes
    ----------
    spec : SceneSpec
    epoch : Epoch
    reference : ReferenceProducts
        Made of the other night's images.
    reference_truth : list of structured array
        Truth of each of these.
    defects : Defects
        The detector's.
    """

    spec: SceneSpec
    epoch: Epoch
    reference: ReferenceProducts
    reference_truth: list[np.ndarray]
    defects: Defects

    @property
    def inputs(self) -> DifferenceInputs:
        """What P6 is given."""
        return DifferenceInputs(self.epoch.science, self.reference, self.epoch.gaia, self.epoch.ps1)


def simulator_config(spec: SceneSpec) -> SimulatorConfig:
    """Settings of a scene: seeing, sky, densities and artefacts drawn from its seed."""
    rng = np.random.default_rng([spec.seed, 301])
    area = (spec.side_px / 3080) ** 2
    n = max(4, round(spec.side_px**2 / 170.0**2))
    boost = (lambda low, high: float(np.exp(rng.uniform(np.log(low), np.log(high))))) if spec.rich else (lambda *_: 1.0)
    density = float(np.exp(rng.uniform(np.log(15e3), np.log(80e3)))) if spec.sky == "plane" else None
    sky = SkyConfig(
        star_density_per_deg2=density,
        galaxy_density_per_deg2=300.0 if spec.sky == "plane" else 1300.0,
        star_bright_shift_mag=float(rng.uniform(0.0, 0.8)) if spec.rich else 0.0,
        variable_fraction=0.01 * boost(2.0, 12.0),
        transients_per_quadrant=n,
        transient_snr=(4.0, 60.0),
        transient_separation_px=55.0,
        asteroids_per_quadrant=3.0 * area + 3.0,
        fast_movers_per_quadrant=0.15 * area,
    )
    optics = OpticsConfig(
        seeing_arcsec=float(rng.uniform(1.8, 2.9)),
        seeing_scatter=float(rng.uniform(0.04, 0.14)),
        wing_fraction=float(rng.uniform(0.06, 0.14)),
        ellipticity=float(rng.uniform(0.02, 0.07)),
        cloud_mag=float(rng.choice([0.03, 0.03, 0.3])),
        ghost_mag=9.5 + (float(rng.uniform(0.0, 2.5)) if spec.rich else 0.0),
        trails_per_ccd=0.12 * boost(1.0, 8.0) * 4 * area,
    )
    detector = DetectorConfig(
        radiation_per_mpx=7.0 * boost(1.0, 5.0),
        hot_per_mpx=30.0 * boost(0.5, 4.0),
        dead_per_mpx=20.0 * boost(0.5, 4.0),
        noisy_per_mpx=30.0 * boost(0.5, 4.0),
        bad_columns_per_mpx=0.25 * boost(1.0, 12.0),
    )
    return SimulatorConfig(sky=sky, optics=optics, detector=detector)


@lru_cache(maxsize=32)
def _field(date: str, sky: str) -> tuple[int, ...]:
    return visible_fields(date, 1, sky)


def plan_of(spec: SceneSpec) -> tuple[Plan, int]:
    """The plan of a scene's nights and its readout channel."""
    rng = np.random.default_rng([spec.seed, 302])
    camera: Camera = dataclasses.replace(CCD, name=f"ccd-{spec.side_px}", quadrant_shape=(spec.side_px, spec.side_px))
    date, code = str(rng.choice(DATES)), str(rng.choice(FILTERS))
    plan = make_plan(
        camera,
        date,
        seed=spec.seed,
        fields=_field(date, spec.sky),
        filter_codes=(code,),
        n_exposures=spec.epochs,
        n_reference=spec.epochs,
        n_bias=N_BIAS,
        n_flat=N_FLAT,
        sky=spec.sky,
        config=simulator_config(spec),
    )
    return plan, int(rng.choice(camera.rcids))


def make_epochs(plan: Plan, rcid: int) -> list[Epoch]:
    """Render and calibrate every on-sky exposure of a plan; those that cannot be calibrated are left out."""
    ccdid, _ = ccd_qid(rcid)
    dark = [e for e in plan.of_night(0) if e.kind == "b"]
    lit = [e for e in plan.of_night(0) if e.kind == "f"]
    bias = stack_bias([_raw(plan, e, rcid)[0] for e in dark], BiasConfig())
    headers = [primary_header(plan, e, ccdid, None) for e in lit]
    flat = stack_flat([_raw(plan, e, rcid)[0] for e in lit], bias, FlatConfig(), headers=headers)
    out = []
    with tempfile.TemporaryDirectory() as folder:
        write_catalogs(Path(folder), plan)
        catalogs = StaticCatalogs(Path(folder))
        for exposure in (e for e in plan.exposures if e.kind == "o"):
            made = _calibrate(plan, exposure, rcid, (bias, flat), catalogs)
            if made is not None:
                out.append(made)
    return out


def _raw(plan: Plan, exposure: PlannedExposure, rcid: int) -> tuple[RawQuadrant, Rendered]:
    made = render(plan, exposure, rcid)
    header = quadrant_header(plan, exposure, rcid)
    return RawQuadrant(ccd_qid(rcid)[1], rcid, made.pixels, made.overscan, header), made


def _calibrate(
    plan: Plan,
    exposure: PlannedExposure,
    rcid: int,
    calibration: tuple[CalibrationImage, CalibrationImage],
    catalogs: StaticCatalogs,
) -> Epoch | None:
    """One calibrated image; None with a logged reason where the pipeline refuses it."""
    ccdid, qid = ccd_qid(rcid)
    raw, made = _raw(plan, exposure, rcid)
    primary = primary_header(plan, exposure, ccdid, conditions(plan, exposure))
    place = pointing(primary, raw.header, plan.camera, ccdid, qid)
    gaia = place.catalog(lambda ra, dec, radius: catalogs.gaia(ra, dec, radius, exposure.jd), CATALOG_MARGIN_DEG)
    ps1 = place.catalog(catalogs.ps1, CATALOG_MARGIN_DEG)
    try:
        signal, (bias, flat) = split(raw, primary, SplitConfig()), calibration
        inputs = ScienceInputs(signal, primary, bias, flat, gaia, ps1, plan.camera)
        science = run_science(inputs, ScienceConfig())
    except ZtfdsError as error:
        log.warning("seed %d, exposure %d left out: %s", plan.seed, exposure.index, error)
        return None
    if science.status != 1 or science.psf is None or science.psfcat is None:
        log.warning("seed %d, exposure %d left out: %s", plan.seed, exposure.index, science.reasons)
        return None
    return Epoch(exposure, science, made.truth, gaia, ps1)


def make_pairs(spec: SceneSpec) -> Iterator[Pair]:
    """Every image of either night against the co-add of the other night: what is new in one is gone in the other."""
    plan, rcid = plan_of(spec)
    epochs = make_epochs(plan, rcid)
    nights = [[e for e in epochs if e.exposure.night == night] for night in (0, 1)]
    defects = detector_of(plan, rcid).defects
    for old, new in (nights, nights[::-1]):
        inputs = [ReferenceInput(e.science.pixels, e.science.mask, e.science.header) for e in old]
        try:
            reference = make_reference(inputs, ReferenceConfig())
        except ZtfdsError as error:
            log.warning("seed %d: no reference: %s", spec.seed, error)
            continue
        if reference.psf is None:  # one that is called unusable still serves to learn from
            log.warning("seed %d: no reference: %s", spec.seed, reference.reason)
            continue
        for epoch in new:
            yield Pair(spec, epoch, reference, [e.truth for e in old], defects)
