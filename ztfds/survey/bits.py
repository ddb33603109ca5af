"""Pixel-mask bits and image-quality bits, as tables from which code, FITS comments and documents are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MaskBit:
    """One bit of the 16-bit pixel mask.

    Attributes
    ----------
    bit : int
        Position, 0 the least significant.
    name : str
        Name of the constant below.
    meaning : str
        What a pixel with this bit is.
    """

    bit: int
    name: str
    meaning: str

    @property
    def value(self) -> int:
        """The bit's value, ``2 ** bit``."""
        return 1 << self.bit


TRACK, SEXTRACTED, LOW_RESPONSE, HIGH_RESPONSE, NOISY, GHOST, SPILL_GHOST = 1, 2, 4, 8, 16, 32, 64
SPIKE, SATURATED, DEAD, NAN, PSF_SOURCE, HALO = 128, 256, 512, 1024, 2048, 4096

MASK_BITS = (
    MaskBit(0, "TRACK", "aircraft or satellite track"),
    MaskBit(1, "SEXTRACTED", "contains an aperture-catalog detection"),
    MaskBit(2, "LOW_RESPONSE", "low responsivity"),
    MaskBit(3, "HIGH_RESPONSE", "high responsivity"),
    MaskBit(4, "NOISY", "noisy"),
    MaskBit(5, "GHOST", "ghost from bright source"),
    MaskBit(6, "SPILL_GHOST", "ghost from charge spillage (MJD <= 58779)"),
    MaskBit(7, "SPIKE", "pixel spike, possible radiation hit"),
    MaskBit(8, "SATURATED", "saturated"),
    MaskBit(9, "DEAD", "dead, unresponsive"),
    MaskBit(10, "NAN", "not a number"),
    MaskBit(11, "PSF_SOURCE", "contains a PSF-extracted source position"),
    MaskBit(12, "HALO", "halo from bright source"),
)

BAD_TEMPLATE = 6141
"""Every defined bit except the two that mark sources: what is not a good pixel for photometry."""
SOURCE_TEMPLATE = SEXTRACTED | PSF_SOURCE
"""The two bits that mark sources (2050)."""
HARD_BAD = TRACK | LOW_RESPONSE | HIGH_RESPONSE | NOISY | SPIKE | SATURATED | DEAD | NAN
"""Pixels whose value says nothing reliable about the sky and that no fit may use. Ghosts and halos are not among them:
their light is extra background under a perfectly good measurement."""
SPILL_GHOST_LAST_MJD = 58779
"""Last MJD (d) on which ghosts from charge spillage occurred; later masks never carry bit 6."""


def mask_cards() -> list[tuple[str, int, str]]:
    """FITS cards (keyword, value, comment) that document the mask bits in a mask image."""
    return [(f"BIT{item.bit:02d}", item.bit, item.meaning) for item in MASK_BITS]


@dataclass(frozen=True)
class InfoBit:
    """One image-quality rule: a metric that must stay on the good side of a limit.

    Attributes
    ----------
    bit : int
        Position in INFOBITS.
    metric : str
        Key of the metric that `evaluate` looks at.
    comparison : str
        The image is *worse* when ``metric comparison limit`` is true: ``>``, ``<``, ``outside`` (limit is a pair) or
        ``not`` (the metric is 0 or False: something was not possible).
    limit : float or tuple of float or None
        Limit in the metric's unit, the same for every filter unless `by_filter` says otherwise.
    text : str
        Comment of the header card ``BITnn``, as the real survey writes it.
    fatal : bool
        Whether the image becomes unusable (STATUS 0).
    per_area : bool
        Whether the limit is a number of objects in a full 3080 x 3072 quadrant, to be scaled with the image's area.
    by_filter : mapping of int to float
        Limits that differ per filter number.
    version : int
        Version of the rule, raised whenever a limit changes.
    """

    bit: int
    metric: str
    comparison: str
    limit: float | tuple[float, float] | None
    text: str
    fatal: bool = False
    per_area: bool = False
    by_filter: Mapping[int, float] = field(default_factory=dict)
    version: int = 1

    @property
    def value(self) -> int:
        """The bit's value, ``2 ** bit``."""
        return 1 << self.bit

    def violated(self, metric: float, fid: int, area_fraction: float = 1.0) -> bool:
        """Whether a metric breaks the rule; a NaN breaks every rule that has a limit."""
        if self.comparison == "not":
            return not metric or math.isnan(metric)
        if math.isnan(metric):
            return True
        if isinstance(self.limit, tuple):
            return not self.limit[0] <= metric <= self.limit[1]
        limit = self.by_filter.get(fid, self.limit)
        assert limit is not None
        limit = limit * area_fraction if self.per_area else limit
        return metric > limit if self.comparison == ">" else metric < limit


# Texts and limits are those of the BITnn cards of a real science header. Which bits are fatal is this project's choice:
# those without which no calibrated photometry or position exists.
INFOBITS = (
    InfoBit(0, "median_background_dn", ">", 4000.0, "MEDIAN BACKGROUND LEVEL is >  4000.0 DN"),
    InfoBit(1, "pixel_noise_dn", ">", 100.0, "ROBUST PIXEL NOISE (RMS) is > 100.0 DN"),
    InfoBit(2, "saturated_percent", ">", 50.0, "PERCENT OF SATURATED PIXELS is > 50.0%", fatal=True),
    InfoBit(3, "seeing_arcsec", ">", 5.0, 'IMAGE SEEING (FWHM) is > 5.0"'),
    InfoBit(4, "maglim_catalog_mag", "<", 17.5, "MAGLIM FROM PSF CATALOG UNCERTS is < 17.5 mag"),
    InfoBit(5, "maglim_formula_mag", "<", 17.5, "MAGLIM FROM EMPIRICAL FORMULA is < 17.5 mag"),
    InfoBit(6, "n_psfcat", "<", 10, "NUMBER OF PSF CATALOG SOURCES is < 10", fatal=True, per_area=True),
    InfoBit(7, "n_sexcat", "<", 20, "NUMBER OF SEXTRACTOR CAT SOURCES is < 20", per_area=True),
    InfoBit(8, "photcal_possible", "not", None, "PHOTOMETRIC CALIBRATION NOT POSSIBLE", fatal=True),
    InfoBit(9, "n_photcal_catalog", "<", 30, "NUMBER OF PHOTOMETRIC CALIBRATORS is < 30", per_area=True),
    InfoBit(10, "n_photcal_matches", "<", 5, "NUMBER OF MATCHES FOR PHOTOMETRIC CAL < 5", fatal=True),
    InfoBit(11, "zp_rms_mag", ">", 0.2, "RMS in PHOTCAL RESIDUALS (ZPs) is > 0.2 mag"),
    InfoBit(12, "astrom_possible", "not", None, "ASTROMETRIC CALIBRATION NOT POSSIBLE", fatal=True),
    InfoBit(13, "astrom_catalog_percent", "<", 0.0, "PCT OF REF-CAT MATCHES FOR ASTROM is < 0%"),
    InfoBit(14, "n_astrom_matches", "<", 100, "NUMBER OF MATCHES FOR ASTROM CAL is < 100", per_area=True),
    InfoBit(15, "n_astrom_ingrid_min", "<", 5, "MIN NUM OF IN-GRID MATCHES FOR ASTROM is < 5", per_area=True),
    InfoBit(16, "pixel_scale_change_percent", "outside", (-0.2, 2.0), "REL-PIXEL SCALE OUT OF RANGE: -0.20% - 2.00%"),
    InfoBit(17, "astrom_chi2_change_percent", ">", 0.0, "PCT CHANGE IN SCAMP CHI-SQUARE is > 0.0%"),
    InfoBit(18, "astrom_chi2", ">", 30.0, "CHI-SQUARE FROM SECOND PASS SCAMP is > 30"),
    InfoBit(19, "astrom_ingrid_resid_arcsec", ">", 0.7, 'MAX IN-GRID MEDIAN ASTROM RESID is > 0.7"'),
    InfoBit(20, "psf_possible", "not", None, "PSF CREATION (HENCE PSF-FIT PHOT) NOT POSSIBLE", fatal=True),
    InfoBit(21, "astrom_detected_percent", "<", 50.0, "PCT OF DETECTED MATCHES FOR ASTROM is < 50%"),
)

CLOUDY = 1 << 25
"""Bit 25: cloudy or otherwise bad; kept in the database only, never in file headers."""


@dataclass(frozen=True)
class CloudyLimits:
    """Limits beyond which an image counts as cloudy (bit 25), as published with the survey's cautionary notes.

    ``magzp > zp_max - slope * airmass``, or residual scatter above `rms_max`, or fewer than `matches_min` calibrators.
    """

    zp_max: float
    slope: float
    rms_max: float
    matches_min: int


CLOUDY_LIMITS = {
    1: CloudyLimits(26.7, 0.20, 0.06, 80),
    2: CloudyLimits(26.65, 0.15, 0.05, 120),
    3: CloudyLimits(26.0, 0.07, 0.06, 100),
}


def infobits_cards() -> list[tuple[str, int, str]]:
    """FITS cards (keyword, value, comment) that document INFOBITS in a science header."""
    return [(f"BIT{item.bit:02d}", item.bit, item.text) for item in INFOBITS]


def evaluate(metrics: Mapping[str, float], fid: int, area_fraction: float = 1.0) -> tuple[int, int, list[str]]:
    """Judge an image by the table of rules.

    Parameters
    ----------
    metrics : mapping of str to float
        Values under the keys that `INFOBITS` names; a rule whose metric is absent was not measured and is not judged.
    fid : int
        Filter number.
    area_fraction : float
        Area of the image over that of a full 3080 x 3072 quadrant; scales the limits on numbers of objects.

    Returns
    -------
    infobits : int
        Bit string; 0 is perfect.
    status : int
        1 usable, 0 if any fatal bit is set.
    reasons : list of str
        One line per set bit: ``bit 14: NUMBER OF MATCHES FOR ASTROM CAL is < 100 (57)``.
    """
    broken = [
        rule
        for rule in INFOBITS
        if rule.metric in metrics and rule.violated(float(metrics[rule.metric]), fid, area_fraction)
    ]
    infobits = sum(rule.value for rule in broken)
    status = 0 if any(rule.fatal for rule in broken) else 1
    return infobits, status, [f"bit {rule.bit}: {rule.text} ({metrics[rule.metric]:.6g})" for rule in broken]


def cloudy(
    fid: int, magzp: float, airmass: float, magzprms: float, nmatches: int, *, zp_min: float | None = None
) -> bool:
    """Whether an image deserves bit 25.

    Parameters
    ----------
    fid : int
        Filter number.
    magzp, magzprms : float
        Zero point and its residual scatter, mag.
    airmass : float
        Airmass of the exposure.
    nmatches : int
        Number of calibrators used.
    zp_min : float, optional
        Faintest acceptable zero point of this readout channel at zero airmass, mag; not judged when unknown.
    """
    limits = CLOUDY_LIMITS[fid]
    extinction = limits.slope * airmass
    too_bright = magzp > limits.zp_max - extinction
    too_faint = zp_min is not None and magzp < zp_min - extinction
    return too_bright or too_faint or magzprms > limits.rms_max or nmatches < limits.matches_min
