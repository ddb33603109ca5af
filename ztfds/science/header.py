"""The header of a calibrated image: the real survey's keywords, in its order, from raw header and measurements."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.photometry.apertures import ApertureCorrections
from ztfds.photometry.zeropoint import Zeropoint
from ztfds.survey import bits, ids
from ztfds.survey.errors import MissingKeyword

_DROPPED = frozenset(
    {
        "EXTNAME", "BZERO", "BSCALE", "BLANK", "CHECKSUM", "DATASUM", "XTENSION", "SIMPLE", "BITPIX", "NAXIS", "NAXIS1",
        "NAXIS2", "EXTEND", "PCOUNT", "GCOUNT", "TFIELDS", "ZIMAGE", "WCSAXES", "RADECSYS", "MJDREF", "SATURATE",
    }
)  # fmt: skip
_OLD_WORLD = re.compile(
    r"((CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)\d|(CD|PC)\d_\d|(PV|PS)\d_\d+|WCSNAME|LONPOLE|LATPOLE|RADESYS|EQUINOX)[A-Z]?"
    r"|(A|B|AP|BP)_(ORDER|DMAX|\d_\d)|(CPDIS|CQDIS|D2IMDIS)\d|PROJP\d"
)
"""World coordinates of any convention in a raw header: left in, they would contradict or distort the solved ones."""
_NOTES = (
    "*** photometric-calibration keywords below are from PSF-fitting:",
    "*** will also be applicable to aperture measurements on point",
    "*** sources using psf_mag-aper_mag corrections below (if available)",
)
_SURFACE = ("u", "v", "u*u-1/3", "u*v", "v*v-1/3")
"""Terms of the zero point's surface; u, v: -1 to 1 over x and y of the image (`photometry.zeropoint.spatial_surface`)."""
PROCESSING_VERSION = 1


@dataclass(frozen=True)
class Identity:
    """Which quadrant of which exposure this is.

    ccdid 1..16, qid 1..4, rcid 0..63, fid 1..3, field; jd: start of the exposure, d.
    """

    ccdid: int
    qid: int
    rcid: int
    fid: int
    field: int
    jd: float


def number(header: fits.Header, *keywords: str) -> float:
    """First finite number under the keywords; raise `MissingKeyword` when there is none."""
    for keyword in keywords:
        value = header.get(keyword)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    raise MissingKeyword(f"the header has no usable {' or '.join(keywords)}")


def start(primary: fits.Header, extension: fits.Header) -> fits.Header:
    """The raw headers as one: primary, then extension cards, without storage and world coordinates."""
    out = fits.Header()
    for source in (primary, extension):
        for card in source.cards:
            keyword = card.keyword
            if keyword in _DROPPED or _OLD_WORLD.fullmatch(keyword) or not keyword.strip():
                continue
            if keyword in ("COMMENT", "HISTORY"):
                out.add_comment(str(card.value)) if keyword == "COMMENT" else out.add_history(str(card.value))
                continue
            out[keyword] = (card.value, card.comment)
    return out


def set_identity(header: fits.Header, who: Identity) -> None:
    """Cards that name the quadrant, the exposure and the numbers in the database that follow from them."""
    header["CCDID"], header["QID"], header["RCID"] = who.ccdid, who.qid, who.rcid
    header["EXPID"] = ids.expid(who.jd)
    for keyword, value, comment in (
        ("DBPID", ids.pid(who.jd, who.rcid), "Database processed-image ID"),
        ("PROCVSN", PROCESSING_VERSION, "Processing version"),
        ("DBFIELD", who.field, "Database field"),
        ("DBNID", ids.nid(who.jd), "Database night ID"),
        ("DBEXPID", ids.expid(who.jd), "Database exposure ID"),
        ("DBRCID", who.rcid, "Database readout-channel ID"),
        ("DBFID", who.fid, "Database filter ID"),
        ("DBPIPEID", ids.PIPELINE_DIFFERENCE, "Database pipeline ID"),
    ):
        header[keyword] = (value, comment)


def set_calibration_ids(header: fits.Header, bias: fits.Header, flat: fits.Header) -> None:
    """CIDBIAS and CIDHIFLT where the calibration images carry their number (CALID)."""
    for keyword, source, what in (("CIDBIAS", bias, "bias"), ("CIDHIFLT", flat, "hi-nu flat")):
        if "CALID" in source:
            header[keyword] = (int(source["CALID"]), f"calibration DB ID for {what} image input")


def set_astrometry(header: fits.Header, cards: dict[str, float | int | str]) -> None:
    """World coordinates and their quality."""
    for keyword, value in cards.items():
        header[keyword] = value


def set_nominal_wcs(header: fits.Header, wcs: WCS) -> None:
    """World coordinates of the pointing model, where no solution was found."""
    header.update(wcs.to_header())
    header["WCSNAME"] = ("NOMINAL", "no astrometric solution: pointing model")


def set_photometry(header: fits.Header, zeropoint: Zeropoint | None, saturate: float, pcolor: str) -> None:
    """The photometric block in the real order; without a zero point only what does not need one."""
    for k, note in enumerate(_NOTES, start=1):
        header[f"CALNOTE{k}"] = note
    saturation = (saturate, "Saturation value in final science image [DN]")
    block: dict[str, tuple[float | int | str, str]] = {
        "PCOLOR": (pcolor, "Calibrator color used for PSF-fit calibration")
    }
    if zeropoint is not None:
        block = zeropoint.header()
    for keyword, (value, comment) in block.items():
        if not isinstance(value, float) or math.isfinite(value):
            header[keyword] = (value, comment)
        if keyword == "PCOLOR":
            header["SATURATE"] = saturation


def set_apertures(header: fits.Header, corrections: ApertureCorrections) -> None:
    """Aperture diameters and corrections (left out where they could not be measured)."""
    text = ",".join(f"{diameter:g}" for diameter in corrections.diameters_px)
    header["FIXAPERS"] = (text, "fixed aperture diameters used [pixels]")
    for k, diameter in enumerate(corrections.diameters_px):
        if np.isfinite(corrections.values[k]):
            comment = f"PSF_mag - AP_mag for AP.diam= {diameter:.1f} pix."
            _set(header, f"APCOR{k + 1}", float(corrections.values[k]), comment)
            _set(header, f"APCORUN{k + 1}", float(corrections.errors[k]), f"Uncertainty in APCOR{k + 1} [mag]")


def set_quality(header: fits.Header, metrics: dict[str, float], infobits: int, status: int) -> None:
    """INFOBITS with its table, STATUS, seeing (pixels), limiting magnitude, sky."""
    header["INFOBITS"] = (infobits, "infoBits string; bit(s) = " + (_bits_text(infobits) or "null"))
    _set(header, "SEEING", metrics.get("seeing_px", math.nan), "[pix] Seeing FWHM")
    _set(header, "MAGLIM", metrics.get("maglim_mag", math.nan), "5-sigma mag-limit in PSF-fit catalog [mag]")
    for keyword, value, text in bits.infobits_cards():
        header[keyword] = (value, text)
    header["STATUS"] = (status, "overall processing flag: 0 = bad; 1 = usable")
    _set(header, "SKYSIG", metrics.get("pixel_noise_dn", math.nan), "[DN] Sky noise of a pixel")
    _set(header, "MEDSKY", metrics.get("median_background_dn", math.nan), "[DN] Median sky level")


def set_reasons(header: fits.Header, reasons: Sequence[str], version: int) -> None:
    """Version of the quality rules, and which of them are broken, in words (HISTORY)."""
    header["INFOVERS"] = (version, "Version of the table of INFOBITS limits")
    for reason in reasons:
        header.add_history(f"INFOBITS {reason}")


def set_spatial(header: fits.Header, zeropoint: Zeropoint | None, applied: bool) -> None:
    """The surface through the calibrators' residuals: how far the zero point departs from MAGZP over the image."""
    if zeropoint is None:
        return
    for k, (value, term) in enumerate(zip(zeropoint.spatial_terms, _SURFACE, strict=True), start=1):
        header[f"ZPSP{k}"] = (float(value), f"[mag] zero point surface: coefficient of {term}")
    header["ZPSPRMS"] = (zeropoint.spatial_rms_mag, "[mag] RMS over the image of that surface")
    header["ZPSPAPP"] = (applied, "whether mag in the PSF catalog contains it")


def quality_in_words(header: fits.Header) -> list[str]:
    """What STATUS and INFOBITS of a product say, in sentences, with the values that were measured.

    Raises
    ------
    MissingKeyword
        It has no INFOBITS.
    """
    infobits = int(number(header, "INFOBITS"))
    status = int(number(header, "STATUS")) if "STATUS" in header else 1
    verdict = "usable (STATUS 1)" if status else "not usable (STATUS 0)"
    lines = [f"{verdict}, INFOBITS {infobits}{'' if infobits else ': nothing to object to'}"]
    written = "".join(str(card.value).ljust(72) for card in header.cards if card.keyword == "HISTORY")
    reasons = [" ".join(part.split()) for part in written.split("INFOBITS ")[1:]]
    return lines + (reasons or bits.explain(infobits, fid=int(header.get("FILTERID", 1))))


def _bits_text(infobits: int) -> str:
    return ",".join(str(k) for k in range(32) if infobits >> k & 1)


def _set(header: fits.Header, keyword: str, value: float, comment: str) -> None:
    """Set a card; numbers that are not finite are left out, for FITS has none."""
    if math.isfinite(value):
        header[keyword] = (value, comment)
