"""The plan of the nights: which exposure starts when, on which field, in which filter, and under which conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ztfds.simulator.config import SimulatorConfig
from ztfds.simulator.ephemeris import airmass, altitude_azimuth, sky_state
from ztfds.simulator.optics import Seeing, sky_of_gnomonic
from ztfds.simulator.sky import galactic
from ztfds.survey import fields as field_grid
from ztfds.survey import filters, ids, names
from ztfds.survey.camera import Camera
from ztfds.survey.detector import GAIN_E_PER_DN, READ_NOISE_E
from ztfds.survey.errors import ConfigurationError

EXPTIME_S = 30.0
CADENCE_S = 40.6  # median of four real nights, start to start
FILTER_CHANGE_S = 135.0
NAME_LEAD_S = 2.0  # a file is named a little before its shutter opens
CALIBRATION_START_H, SCIENCE_START_H = 5.0 / 60.0, 2.5
PROGRAM_BLOCKS = (1, 2, 1, 2, 3)
PROGRAM_PI = {0: "Engineering", 1: "Public", 2: "Collaboration", 3: "Caltech"}
_DARK_NANOLAMBERT = 79.0
_MOON_COLOUR = (1.0, 0.6, 0.35)


@dataclass(frozen=True)
class PlannedExposure:
    """One exposure to come.

    Attributes
    ----------
    index, night : int
        Place in the plan; number of the night in the plan.
    kind : str
        Image-type letter of the file name: b bias, f flat, o object.
    purpose : str
        bias, flat, reference (an epoch before anything happens in the sky) or science.
    jd : float
        Shutter opening, UTC Julian date.
    exptime : float
        Seconds; 0 for a bias.
    fid, fieldid, programid : int
        Filter (0 for a bias), field (0 for calibration frames), program.
    ra, dec : float
        Requested pointing, degrees.
    """

    index: int
    night: int
    kind: str
    purpose: str
    jd: float
    exptime: float
    fid: int
    fieldid: int
    programid: int
    ra: float
    dec: float

    @property
    def ffd(self) -> str:
        """Date and microdays that name the exposure."""
        return ids.filefracday(self.jd - NAME_LEAD_S / 86400.0)

    @property
    def filtercode(self) -> str:
        """Filter code of the file name."""
        return filters.by_fid(self.fid).code if self.fid else "bi"

    @property
    def key(self) -> int:
        """Number that seeds everything random in this exposure."""
        return round(self.jd * 864000.0)

    def raw_name(self, ccdid: int) -> names.RawName:
        """File name of one CCD."""
        return names.RawName(self.ffd, self.fieldid, self.filtercode, ccdid, self.kind)


@dataclass(frozen=True)
class Plan:
    """Nights to simulate: camera, seed of the sky, settings, dates (YYYYMMDD) and exposures in order of time."""

    camera: Camera
    seed: int
    config: SimulatorConfig
    dates: tuple[str, ...]
    exposures: tuple[PlannedExposure, ...]

    def of_night(self, night: int) -> tuple[PlannedExposure, ...]:
        """Exposures of one night of the plan."""
        return tuple(e for e in self.exposures if e.night == night)

    @property
    def fields(self) -> tuple[int, ...]:
        """Fields of the on-sky exposures, sorted."""
        return tuple(sorted({e.fieldid for e in self.exposures if e.kind == "o"}))

    def science(self) -> tuple[PlannedExposure, ...]:
        """On-sky exposures that are not reference epochs."""
        return tuple(e for e in self.exposures if e.purpose == "science")

    @property
    def onset_jd(self) -> float:
        """Moment at which all transients appear: a quarter of a day before the first science exposure."""
        found = self.science()
        return (found[0].jd if found else self.exposures[-1].jd + 1.0) - 0.25


def make_plan(
    camera: Camera,
    date: str,
    *,
    seed: int = 1,
    fields: Sequence[int] | None = None,
    n_fields: int = 1,
    filter_codes: Sequence[str] = ("zg", "zr"),
    n_exposures: int = 20,
    n_reference: int = 7,
    n_bias: int = 8,
    n_flat: int = 6,
    programs: Sequence[int] = PROGRAM_BLOCKS,
    reference_nights_before: int = 3,
    sky: str = "quiet",
    config: SimulatorConfig | None = None,
) -> Plan:
    """Plan a reference night and a science night.

    Parameters
    ----------
    camera : Camera
    date : str
        UT date of the science night, YYYYMMDD. The reference night is `reference_nights_before` days earlier.
    seed : int
        The sky and all noise.
    fields : sequence of int, optional
        Fields; None takes `n_fields` well-placed ones at high ('quiet') or low ('plane') Galactic latitude.
    filter_codes : sequence of str
        E.g. ('zg', 'zr').
    n_exposures : int
        Science exposures in all; 0 plans no science.
    n_reference : int
        Reference epochs of each field in each filter; 0 plans no reference night (a single night, dates = (date,)).
    n_bias, n_flat : int
        Biases, and flats in each filter, of each night's afternoon.
    programs : sequence of int
        Programs of successive blocks of exposures.
    config : SimulatorConfig, optional
        Default: `.tiny()` for cameras with quadrants below 1024 px, `.plane()` for sky='plane', else the standard one.
    """
    config = config or default_config(camera, sky)
    chosen = tuple(fields) if fields is not None else visible_fields(date, n_fields, sky)
    if not chosen and (n_exposures or n_reference):
        raise ConfigurationError(f"no field to observe on {date}")
    fids = tuple(filters.by_code(code).fid for code in filter_codes)
    dates, planned = [], list[PlannedExposure]()
    if n_reference:
        dates.append(ids.night_date(ids.nid_of_date(date) - reference_nights_before))
        visits = _visits(chosen, fids, n_reference * len(chosen) * len(fids), programs)
        planned += _night(0, dates[0], fids, n_bias, n_flat, visits, "reference", len(planned), seed)
    dates.append(date)
    visits = _visits(chosen, fids, n_exposures, programs)
    planned += _night(len(dates) - 1, date, fids, n_bias, n_flat, visits, "science", len(planned), seed)
    return Plan(camera, seed, config, tuple(dates), tuple(planned))


def default_config(camera: Camera, sky: str = "quiet") -> SimulatorConfig:
    """Settings that suit a camera."""
    if camera.quadrant_shape[1] < 1024:
        return SimulatorConfig.tiny()
    return SimulatorConfig.plane() if sky == "plane" else SimulatorConfig()


def _visits(fields: Sequence[int], fids: Sequence[int], n: int, programs: Sequence[int]) -> list[tuple[int, int, int]]:
    """(field, filter, program) of n visits: all fields in turn, several times in one filter, then the next filter."""
    repeats = max(1, math.ceil(4 / max(1, len(fields))))
    out: list[tuple[int, int, int]] = []
    per_filter = {fid: math.ceil(n / len(fids) / max(1, len(fields))) * len(fields) for fid in fids}
    block = 0
    while len(out) < n:
        for fid in fids:
            for _ in range(repeats):
                room = min(len(fields), per_filter[fid], n - len(out))
                out += [(field, fid, programs[block % len(programs)]) for field in fields[:room]]
                per_filter[fid] -= room
            block += 1
    return out


def _night(
    night: int,
    date: str,
    fids: Sequence[int],
    n_bias: int,
    n_flat: int,
    visits: list[tuple[int, int, int]],
    purpose: str,
    first: int,
    seed: int,
) -> list[PlannedExposure]:
    """Afternoon calibrations from UT 00:05, then the visits from UT 02:30."""
    zero = ids.NID_ZERO_JD + ids.nid_of_date(date)
    frames = [("b", "bias", 0.0, 0)] * n_bias + [("f", "flat", 5.0, fid) for fid in fids for _ in range(n_flat)]
    step = min(30.0, 2400.0 / max(1, len(frames)))
    out = [
        PlannedExposure(
            first + k,
            night,
            kind,
            name,
            zero + CALIBRATION_START_H / 24 + k * step / 86400.0,
            exptime,
            fid,
            0,
            0,
            0.0,
            90.0,
        )
        for k, (kind, name, exptime, fid) in enumerate(frames)
    ]
    rng = np.random.default_rng([seed, 41, night])
    jd, last = zero + SCIENCE_START_H / 24, visits[0][1] if visits else 0
    for fieldid, fid, program in visits:
        if fid != last:
            jd += FILTER_CHANGE_S / 86400.0
        field, last = field_grid.get(fieldid), fid
        out.append(
            PlannedExposure(
                first + len(out), night, "o", purpose, jd, EXPTIME_S, fid, fieldid, program, field.ra, field.dec
            )
        )
        jd += (CADENCE_S + rng.exponential(0.3)) / 86400.0
    return out


def visible_fields(date: str, n: int, sky: str = "quiet") -> tuple[int, ...]:
    """The n main-grid fields that stand well from UT 02:30 on for two hours: the best one and its neighbours.

    The best is the highest of those with |b| > 45 deg ('quiet') or < 6 deg ('plane'), or what comes nearest to that.
    """
    start = ids.NID_ZERO_JD + ids.nid_of_date(date) + SCIENCE_START_H / 24
    ranked = []
    for field in field_grid.all_fields().values():
        if field.grid != 0 or abs(field.dec) > 70.0:
            continue
        worst = max(airmass(altitude_azimuth(field.ra, field.dec, start + h / 24)[0]) for h in (0.0, 1.0, 2.0))
        b = abs(galactic(field.ra, field.dec)[1])
        off = max(0.0, 45.0 - b) if sky == "quiet" else max(0.0, b - 6.0)
        if worst < 2.2:
            ranked.append((off, worst, field))
    ranked.sort(key=lambda item: (item[0], item[1], item[2].fieldid))
    if not ranked or n < 1:
        return ()
    best = ranked[0][2]
    near = sorted((f for _, _, f in ranked), key=lambda f: field_grid.separation_deg(best.ra, best.dec, f.ra, f.dec))
    return tuple(f.fieldid for f in near[:n])


@dataclass(frozen=True)
class Conditions:
    """What nature does to one on-sky exposure.

    Attributes
    ----------
    seeing : Seeing
        Point-spread function of the exposure (px).
    zeropoint : float
        mag of 1 DN for colour 0, with extinction and cloud.
    sky_dn : float
        Sky level, DN per pixel in the whole exposure.
    gradient : (float, float)
        Relative sky slope from the quadrant's centre to its +x and +y edges.
    pointing : (float, float)
        True pointing, degrees.
    rotation_deg, scale_arcsec : float
        True field rotation and pixel scale.
    airmass, cloud_mag : float
    """

    seeing: Seeing
    zeropoint: float
    sky_dn: float
    gradient: tuple[float, float]
    pointing: tuple[float, float]
    rotation_deg: float
    scale_arcsec: float
    airmass: float
    cloud_mag: float


def conditions(plan: Plan, exposure: PlannedExposure, extra_cloud_mag: float = 0.0) -> Conditions:
    """Conditions of an on-sky exposure; they depend on the seed and its time only."""
    optics, rng = plan.config.optics, np.random.default_rng([plan.seed, 42, exposure.key])
    alt, _ = altitude_azimuth(exposure.ra, exposure.dec, exposure.jd)
    x, fid = airmass(alt), exposure.fid
    cloud = optics.cloud_mag * max(0.0, _drift(plan.seed, 1, exposure.jd)) ** 2 + extra_cloud_mag
    fwhm = optics.seeing_arcsec * (1.04, 1.0, 0.97)[fid - 1] * x**0.4 / plan.camera.pixel_scale_arcsec
    fwhm *= math.exp(optics.seeing_scatter * _drift(plan.seed, 2, exposure.jd) + rng.normal(0, 0.02))
    # The wide component adds about 3 % to the width at half maximum.
    seeing = Seeing(
        fwhm / 1.03,
        optics.wing_fraction * float(np.exp(rng.normal(0, 0.15))),
        rng.normal(0, optics.ellipticity * 0.5),
        rng.normal(0, optics.ellipticity * 0.5),
        rng.normal(0, 0.5),
    )
    off = rng.normal(0, optics.pointing_error_arcsec / 3600.0, 2)
    ra, dec = sky_of_gnomonic(float(off[0]), float(off[1]), exposure.ra, exposure.dec)
    zeropoint = (
        optics.zeropoint_mag[fid - 1]
        + 2.5 * math.log10(exposure.exptime / EXPTIME_S)
        - cloud
        - optics.extinction_mag[fid - 1] * (x - 1.2)
    )
    return Conditions(
        seeing,
        zeropoint,
        _sky_dn(plan, exposure, x, cloud),
        (float(rng.normal(0, 0.004)), float(rng.normal(0, 0.004))),
        (float(ra), float(dec)),
        float(rng.normal(0, optics.rotation_error_deg)),
        plan.camera.pixel_scale_arcsec * (1 + float(rng.normal(0, optics.scale_error))),
        x,
        cloud,
    )


def _sky_dn(plan: Plan, exposure: PlannedExposure, x: float, cloud: float) -> float:
    """Sky level in DN per pixel: dark sky with airmass, moonlight, and a little more under cloud."""
    optics, k = plan.config.optics, exposure.fid - 1
    moon = sky_state(exposure.ra, exposure.dec, exposure.jd).moonlight_nl if optics.moon else 0.0
    mag = optics.sky_mag_arcsec2[k] - 0.15 * (x - 1.0)
    zp = optics.zeropoint_mag[k] + 2.5 * math.log10(exposure.exptime / EXPTIME_S)
    dark = 10 ** (0.4 * (zp - mag)) * plan.camera.pixel_scale_arcsec**2
    return dark * (1 + _MOON_COLOUR[k] * moon / _DARK_NANOLAMBERT) * (1 + 0.3 * min(cloud, 2.0))


def _drift(seed: int, what: int, jd: float) -> float:
    """A smooth random function of time with unit variance: four waves of 20 minutes to 5 hours."""
    rng = np.random.default_rng([seed, 43, what])
    periods, phases = np.array([0.014, 0.04, 0.09, 0.21]), rng.uniform(0, 2 * np.pi, 4)
    return float(np.sum(np.sin(2 * np.pi * (jd - 2459000.5) / periods + phases)) / math.sqrt(2.0))


def nominal_flux(plan: Plan, fid: int, snr: np.ndarray | float) -> np.ndarray:
    """Flux (DN) of a point source of given S/N in a moonless exposure of median seeing at airmass 1.2.

    Inverts snr = F / sqrt(F/g + N (sky/g + r^2)) with N the noise area of the delivered profile.
    """
    optics = plan.config.optics
    fwhm = optics.seeing_arcsec * (1.04, 1.0, 0.97)[fid - 1] * 1.2**0.4 / plan.camera.pixel_scale_arcsec
    dark = 10 ** (0.4 * (optics.zeropoint_mag[fid - 1] - optics.sky_mag_arcsec2[fid - 1] + 0.03))
    variance = dark * plan.camera.pixel_scale_arcsec**2 / GAIN_E_PER_DN + (READ_NOISE_E / GAIN_E_PER_DN) ** 2
    area = 2.9 * fwhm**2
    half = np.asarray(snr, float) ** 2 / GAIN_E_PER_DN / 2
    return half + np.sqrt(half**2 + np.asarray(snr, float) ** 2 * area * variance)


def nominal_mag(plan: Plan, fid: int, snr: np.ndarray | float) -> np.ndarray:
    """Magnitude (colour 0) of a point source of given S/N under nominal conditions."""
    return plan.config.optics.zeropoint_mag[fid - 1] - 2.5 * np.log10(nominal_flux(plan, fid, snr))
