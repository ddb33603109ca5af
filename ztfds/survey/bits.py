"""Pixel-mask bits and image-quality bits, as tables from which code, FITS comments and documents are made."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources


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
        Key of the metric that is looked at.
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
    by_filter : mapping of int to float or pair
        Limits that differ per filter number; a rule without `limit` judges only the filters named here.
    version : int
        Version of the rule, raised whenever a limit changes.
    valid_from : str
        First night (UT date, YYYY-MM-DD) that is judged by this version.
    words, unit : str
        What the metric is, for people, and its unit.
    source : str
        Where the limit is from.
    """

    bit: int
    metric: str
    comparison: str
    limit: float | tuple[float, float] | None
    text: str
    fatal: bool = False
    per_area: bool = False
    by_filter: Mapping[int, float | tuple[float, float]] = field(default_factory=dict)
    version: int = 1
    valid_from: str = ""
    words: str = ""
    unit: str = ""
    source: str = ""

    @property
    def value(self) -> int:
        """The bit's value, ``2 ** bit``."""
        return 1 << self.bit

    def limit_of(self, fid: int, area_fraction: float = 1.0) -> float | tuple[float, float] | None:
        """The limit that holds for a filter and an image's area; None where nothing is judged."""
        limit = self.by_filter.get(fid, self.limit)
        return limit * area_fraction if self.per_area and isinstance(limit, float | int) else limit

    def violated(self, metric: float, fid: int, area_fraction: float = 1.0) -> bool:
        """Whether a metric breaks the rule; a NaN breaks every rule that has a limit."""
        if self.comparison == "not":
            return not metric or math.isnan(metric)
        limit = self.limit_of(fid, area_fraction)
        if limit is None:
            return False
        if math.isnan(metric):
            return True
        if isinstance(limit, tuple):
            return not limit[0] <= metric <= limit[1]
        return metric > limit if self.comparison == ">" else metric < limit

    def explained(self, metric: float | None, fid: int, area_fraction: float = 1.0) -> str:
        """The rule in words, broken by the value `metric` (None: a value that is not known any more)."""
        limit, unit = self.limit_of(fid, area_fraction), f" {self.unit}" if self.unit else ""
        if self.comparison == "not":
            return self.words or self.text
        if isinstance(limit, tuple):
            beyond = f"outside {limit[0]:g} to {limit[1]:g}{unit}"
        else:
            beyond = f"{'above' if self.comparison == '>' else 'below'} the limit of {limit:.4g}{unit}"
        if metric is None:
            return f"{self.words or self.metric} is {beyond}"
        if math.isnan(metric):
            return f"{self.words or self.metric} could not be measured"
        return f"{self.words or self.metric} is {metric:.6g}{unit}, {beyond}"


def _rules(kept_in: str) -> tuple[InfoBit, ...]:
    """Every version of the rules of one kind, from the table ``data/quality_limits.csv``.

    Rows that differ only in filter and limit are one rule.
    """
    found: dict[tuple[str, ...], InfoBit] = {}
    with resources.files("ztfds.survey").joinpath("data/quality_limits.csv").open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            if row["kept_in"] != kept_in:
                continue
            limit = _limit(row)
            key = (row["bit"], row["version"], row["metric"], row["comparison"])
            rule = found.get(key) or InfoBit(
                bit=int(row["bit"]),
                metric=row["metric"],
                comparison=row["comparison"],
                limit=limit if row["filter"] == "*" else None,
                text=row["text"],
                fatal=row["fatal"] == "yes",
                per_area=row["per_area"] == "yes",
                version=int(row["version"]),
                valid_from=row["valid_from"],
                words=row["words"],
                unit=row["unit"],
                source=row["source"],
            )
            if row["filter"] != "*" and limit is not None:
                rule = replace(rule, by_filter={**rule.by_filter, int(row["filter"]): limit})
            found[key] = rule
    return tuple(found.values())


def _limit(row: Mapping[str, str]) -> float | tuple[float, float] | None:
    """The limit of a row: none, one, or a pair."""
    if not row["limit"]:
        return None
    return (float(row["limit"]), float(row["upper"])) if row["upper"] else float(row["limit"])


def valid_rules(rules: Iterable[InfoBit], night: str | None) -> tuple[InfoBit, ...]:
    """Of each rule the latest version that holds on a night (YYYY-MM-DD; None: now); its first one holds before that too."""
    chosen: dict[tuple[int, str, str], InfoBit] = {}
    for rule in sorted(rules, key=lambda rule: rule.version):
        key = (rule.bit, rule.metric, rule.comparison)
        if key not in chosen or night is None or rule.valid_from <= night:
            chosen[key] = rule
    return tuple(chosen.values())


_HEADER_RULES, _DATABASE_RULES = _rules("header"), _rules("database")
# Texts and limits are those of the BITnn cards of a real science header. Which bits are fatal is this project's choice:
# those without which no calibrated photometry or position exists.
INFOBITS = valid_rules(_HEADER_RULES, None)
DATABASE_BITS = valid_rules(_DATABASE_RULES, None)
"""Rules whose bits are kept in the database only, never in file headers: 25 cloudy or otherwise bad, as in the real survey;
26 wrong filter, 27 crowded, 28 patchy, 29 shallower than its limiting magnitude says, which are this project's."""

CLOUDY, WRONG_FILTER, CROWDED, PATCHY, SHALLOW = 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29


def rules_of(night: str | None = None) -> tuple[InfoBit, ...]:
    """The rules that hold on a night (UT date, YYYY-MM-DD; None: the latest), header bits first."""
    return (*valid_rules(_HEADER_RULES, night), *valid_rules(_DATABASE_RULES, night))


def rules_version(night: str | None = None) -> int:
    """Version of the table of rules on a night: the highest of its rules'."""
    return max((rule.version for rule in rules_of(night)), default=0)


@dataclass(frozen=True)
class CloudyLimits:
    """Limits beyond which an image counts as cloudy (bit 25), as published with the survey's cautionary notes.

    ``magzp > zp_max - slope * airmass``, or residual scatter above `rms_max`, or fewer than `matches_min` calibrators.
    """

    zp_max: float
    slope: float
    rms_max: float
    matches_min: int


EXTINCTION_PER_AIRMASS = {1: 0.20, 2: 0.15, 3: 0.07}
"""mag per airmass, by filter number, that the cautionary notes allow for."""


def _cloudy_limits(fid: int) -> CloudyLimits:
    """The published limits of one filter, from the table."""
    limits = {(r.metric, r.comparison): r.by_filter[fid] for r in DATABASE_BITS if r.value == CLOUDY}
    zp_max, rms_max, matches = (
        limits[key] for key in (("zp_clear_mag", ">"), ("zp_rms_mag", ">"), ("n_photcal_matches", "<"))
    )
    assert not isinstance(zp_max, tuple) and not isinstance(rms_max, tuple) and not isinstance(matches, tuple)
    return CloudyLimits(zp_max, EXTINCTION_PER_AIRMASS[fid], rms_max, int(matches))


CLOUDY_LIMITS = {fid: _cloudy_limits(fid) for fid in EXTINCTION_PER_AIRMASS}


def infobits_cards() -> list[tuple[str, int, str]]:
    """FITS cards (keyword, value, comment) that document INFOBITS in a science header."""
    return [(f"BIT{item.bit:02d}", item.bit, item.text) for item in INFOBITS]


def evaluate(
    metrics: Mapping[str, float], fid: int, area_fraction: float = 1.0, night: str | None = None
) -> tuple[int, int, list[str]]:
    """Judge an image by the table of rules.

    Parameters
    ----------
    metrics : mapping of str to float
        Values under the keys that `INFOBITS` names; a rule whose metric is absent was not measured and is not judged.
    fid : int
        Filter number.
    area_fraction : float
        Area of the image over that of a full 3080 x 3072 quadrant; scales the limits on numbers of objects.
    night : str, optional
        UT date, YYYY-MM-DD, whose rules hold; default: the latest.

    Returns
    -------
    infobits : int
        Bit string; 0 is perfect.
    status : int
        1 usable, 0 if any fatal bit is set.
    reasons : list of str
        One line per set bit: ``bit 3: IMAGE SEEING (FWHM) is > 5.0": the seeing (FWHM) is 6.1 arcsec, above the limit of 5
        arcsec``.
    """
    broken = _broken(valid_rules(_HEADER_RULES, night), metrics, fid, area_fraction)
    status = 0 if any(rule.fatal for rule in broken) else 1
    return _bits(broken), status, _lines(broken, metrics, fid, area_fraction)


def flags(
    metrics: Mapping[str, float], fid: int, area_fraction: float = 1.0, night: str | None = None
) -> tuple[int, list[str]]:
    """The bits that are kept in the database only, and their reasons; parameters as of `evaluate`."""
    broken = _broken(valid_rules(_DATABASE_RULES, night), metrics, fid, area_fraction)
    return _bits(broken), _lines(broken, metrics, fid, area_fraction)


def _broken(
    rules: Iterable[InfoBit], metrics: Mapping[str, float], fid: int, area_fraction: float
) -> tuple[InfoBit, ...]:
    """The rules that the metrics break."""
    judged = (rule for rule in rules if rule.metric in metrics)
    return tuple(rule for rule in judged if rule.violated(float(metrics[rule.metric]), fid, area_fraction))


def _bits(broken: Iterable[InfoBit]) -> int:
    """The bit string of broken rules."""
    total = 0
    for rule in broken:
        total |= rule.value
    return total


def _lines(broken: Iterable[InfoBit], metrics: Mapping[str, float], fid: int, area_fraction: float) -> list[str]:
    """One line per broken rule: bit, the survey's text, and in words."""
    return [
        f"bit {rule.bit}: {rule.text}: {rule.explained(float(metrics[rule.metric]), fid, area_fraction)}"
        for rule in broken
    ]


def explain(
    infobits: int, metrics: Mapping[str, float] | None = None, fid: int = 1, area_fraction: float = 1.0
) -> list[str]:
    """A bit string in human sentences, one per set bit and rule.

    Parameters
    ----------
    infobits : int
        INFOBITS of a header or of the database.
    metrics : mapping of str to float, optional
        What was measured: then the sentences hold the values, and of several rules of one bit only those that are broken.
    fid, area_fraction : int, float
        Filter number and area, for the limits.
    """
    known, lines = metrics or {}, []
    for rule in rules_of():
        value = float(known[rule.metric]) if rule.metric in known else None
        if infobits & rule.value and (value is None or rule.violated(value, fid, area_fraction)):
            fatal = "; the image is not usable" if rule.fatal else ""
            lines.append(f"bit {rule.bit}: {rule.explained(value, fid, area_fraction)}{fatal}.")
    rest = infobits & ~_bits(rules_of())
    lines += [f"bit {bit}: no rule is known for it." for bit in range(rest.bit_length()) if rest >> bit & 1]
    return lines
