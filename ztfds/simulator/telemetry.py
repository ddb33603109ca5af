"""What the mountain measures beside the exposures: temperatures, weather, focus, dome and guider, in files of a quarter of an hour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ztfds.formats.telemetry import Reading, write_telemetry
from ztfds.simulator.ephemeris import altitude_azimuth
from ztfds.simulator.schedule import Plan

EVERY_S, FILE_S = 30.0, 900.0
"""Time between readings, and of a file, s."""
MARGIN_S = 60.0
"""Readings begin so long before the first exposure and end so long after the last, s."""
_UNIX_JD = 2440587.5


@dataclass(frozen=True)
class Wave:
    """A quantity that drifts smoothly about a mean."""

    name: str
    unit: str
    mean: float
    amplitude: float
    noise: float
    low: float = -math.inf


WAVES = (
    Wave("outside_temperature", "deg_C", 9.0, 2.0, 0.05),
    Wave("dome_temperature", "deg_C", 10.0, 1.0, 0.03),
    Wave("mirror_temperature", "deg_C", 10.5, 0.6, 0.01),
    Wave("humidity", "%", 33.0, 8.0, 0.3, 1.0),
    Wave("dew_point", "deg_C", -6.0, 2.0, 0.1),
    Wave("pressure", "hPa", 831.0, 1.5, 0.05),
    Wave("wind_speed", "m / s", 4.0, 2.5, 0.5, 0.0),
    Wave("focus_position", "mm", 1.3887, 0.01, 0.0003),
    Wave("detector_temperature", "K", 167.0, 0.1, 0.02),
    Wave("guider_error", "arcsec", 0.3, 0.1, 0.03, 0.02),
)
"""What is measured, and how it varies."""


@dataclass(frozen=True)
class Sheet:
    """One file to come: when its last reading was taken (Julian date), and where it is."""

    end_jd: float
    path: Path


def write_night(folder: Path, plan: Plan, night: int) -> list[Sheet]:
    """Write the files of one night of a plan into a folder, in order of time.

    Parameters
    ----------
    folder : Path
    plan : Plan
    night : int
        Night of the plan; one without exposures of the sky has none.
    """
    sky = [exposure for exposure in plan.of_night(night) if exposure.kind == "o"]
    if not sky:
        return []
    margin, step = MARGIN_S / 86400.0, EVERY_S / 86400.0
    times = np.arange(sky[0].jd - margin, sky[-1].jd + sky[-1].exptime / 86400.0 + margin, step)
    pointing = np.searchsorted([exposure.jd for exposure in sky], times).clip(0, len(sky) - 1)
    sheets = []
    for chunk in np.array_split(np.arange(len(times)), math.ceil(len(times) * EVERY_S / FILE_S)):
        readings = [r for i in chunk for r in _at(plan, float(times[i]), sky[pointing[i]].ra, sky[pointing[i]].dec)]
        sheets.append(Sheet(float(times[chunk[-1]]), write_telemetry(Path(folder), plan.dates[night], readings).path))
    return sheets


def _at(plan: Plan, jd: float, ra: float, dec: float) -> list[Reading]:
    """All readings of one moment, rounded as instruments do."""
    time = datetime.fromtimestamp(round((jd - _UNIX_JD) * 86400.0, 3), UTC)
    rng = np.random.default_rng([plan.seed, 77, int(jd * 86400.0)])
    found = []
    for k, wave in enumerate(WAVES):
        phases = np.random.default_rng([plan.seed, 78, k]).uniform(0, 2 * np.pi, 2)
        drift = float(np.sum(np.sin(2 * np.pi * jd / np.array([0.09, 0.31]) + phases))) / math.sqrt(2.0)
        value = max(wave.low, wave.mean + wave.amplitude * drift + wave.noise * rng.normal())
        found.append(Reading(time, wave.name, round(value, 4), wave.unit))
    _, azimuth = altitude_azimuth(ra, dec, jd)
    found.append(Reading(time, "dome_azimuth", round(float(azimuth) % 360.0, 2), "deg"))
    found.append(Reading(time, "wind_direction", round(float(rng.uniform(200, 280)), 0), "deg"))
    return found
