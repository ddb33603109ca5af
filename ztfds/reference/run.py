"""The reference step (P7): calibrated images of one field, quadrant and filter in, a co-add with catalogs out."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.config.difference import ReferenceConfig
from ztfds.reference import quality
from ztfds.reference.catalogs import Catalogs, measure_coadd
from ztfds.reference.coadd import Coadd, coadd
from ztfds.reference.grid import number, wcs_of
from ztfds.reference.products import ReferenceInput, ReferenceProducts
from ztfds.survey.errors import PsfFailed

log = logging.getLogger(__name__)

WCS_CARD = re.compile(
    r"^(WCSAXES|CTYPE\d|CUNIT\d|CRVAL\d|CRPIX\d|CDELT\d|CD\d_\d|PC\d_\d|PV\d_\d+|LONPOLE|LATPOLE|RADESYS|EQUINOX)$"
)
COPIED_CARDS = ("ORIGIN", "INSTRUME", "TELESCOP", "OBSERVAT", "FIELDID", "CCDID", "QID", "RCID", "FILTERID", "FILTER",
                "PCOLOR", "READNOI", "PIXSCALE")  # fmt: skip


@dataclass(frozen=True)
class _Base:
    """The input that gives the grid, and the facts of all headers."""

    header: fits.Header
    wcs: WCS
    shape: tuple[int, int]


def run(inputs: Sequence[ReferenceInput], config: ReferenceConfig) -> ReferenceProducts:
    """Co-add images to a reference.

    The grid is that of the input whose pointing is nearest to the median of all (the least loss of edges for the
    others). `inputs` may be a sequence whose items load their pixels only when `pixels` is asked for: the headers are
    read first, then each input once (the base twice), so that the memory stays at 4 bytes per pixel and input.

    Parameters
    ----------
    inputs : sequence of ReferenceInput
        As chosen by `select`.
    config : ReferenceConfig

    Returns
    -------
    ReferenceProducts
        Status 0 with a reason where the co-add is not usable.

    Raises
    ------
    ValueError
        Fewer than two inputs.
    MissingKeyword
        An input without zero point.
    """
    if len(inputs) < 2:
        raise ValueError(f"a reference needs at least 2 inputs, not {len(inputs)}")
    headers = [inputs[k].header for k in range(len(inputs))]
    base = _base(inputs, headers)
    images = coadd(inputs, base.wcs, base.shape, config)
    saturate = min(number(h, "SATURATE", 5e4) * s for h, s in zip(headers, images.scales, strict=True))
    try:
        catalogs: Catalogs | None = measure_coadd(images, base.wcs, saturate, config.photometry)
        reason = ""
    except PsfFailed as error:
        catalogs, reason = None, f"no PSF: {error}"
    header = _header(base, headers, images, catalogs, saturate, config)
    qa = quality.metrics(headers, images, catalogs, header.get("MAGLIM"), config.reference_zeropoint_mag)
    verdict = quality.judge(qa, base.shape, config)
    reason = "; ".join(text for text in (reason, verdict.reason) if text)
    _note_verdict(header, verdict, config)
    log.info("reference of %d frames: %s", len(inputs), reason or "usable")
    return ReferenceProducts(
        pixels=images.pixels,
        coverage=images.coverage,
        uncertainty=images.uncertainty,
        mask=images.mask if catalogs is None else catalogs.mask,
        header=header,
        psf=None if catalogs is None else catalogs.psf,
        psfcat=np.zeros(0) if catalogs is None else catalogs.psfcat,
        sexcat=np.zeros(0) if catalogs is None else catalogs.sexcat,
        qa=qa,
        status=verdict.status,
        reason=reason,
        infobits=verdict.infobits,
        reasons=verdict.reasons,
    )


def _note_verdict(header: fits.Header, verdict: quality.Verdict, config: ReferenceConfig) -> None:
    """What the table of limits says of the co-add, as cards."""
    header["STATUS"] = (verdict.status, "overall processing flag: 0 = bad; 1 = usable")
    header["REFBITS"] = (verdict.infobits, "broken limits of reference_limits.csv")
    header["REFLIMV"] = (config.limits_version, "version of that table")
    for text in verdict.reasons:
        header.add_comment(text)


def _base(inputs: Sequence[ReferenceInput], headers: Sequence[fits.Header]) -> _Base:
    """The input with the most central pointing."""
    systems = [wcs_of(header) for header in headers]
    places = np.array([system.all_pix2world(0, 0, 0) for system in systems])
    east = (places[:, 0] - places[0, 0] + 180) % 360 - 180
    east *= np.cos(np.radians(places[0, 1]))
    k = int(np.argmin(np.hypot(east - np.median(east), places[:, 1] - np.median(places[:, 1]))))
    pixels = inputs[k].pixels
    return _Base(headers[k], systems[k], (pixels.shape[0], pixels.shape[1]))


def _values(headers: Sequence[fits.Header], keyword: str) -> np.ndarray:
    """Finite values of a keyword in the headers that have it."""
    values = np.array([number(h, keyword, np.nan) for h in headers])
    return values[np.isfinite(values)]


def _middle(headers: Sequence[fits.Header], keyword: str) -> float | None:
    values = _values(headers, keyword)
    return float(np.median(values)) if values.size else None


def _header(
    base: _Base,
    headers: Sequence[fits.Header],
    images: Coadd,
    catalogs: Catalogs | None,
    saturate: float,
    config: ReferenceConfig,
) -> fits.Header:
    """Header of the reference: geometry of the base input, calibration, what went in."""
    header = fits.Header()
    for card in base.header.cards:
        if WCS_CARD.match(card.keyword) or card.keyword in COPIED_CARDS:
            header.append(card)
    dates = _values(headers, "OBSJD")
    fwhm = catalogs.psf.fwhm_px if catalogs else None
    unc = _values(headers, "MAGZPUNC")
    cards = (
        ("BUNIT", "DN", "sky removed"),
        ("NFRAMES", len(headers), "number of images in the co-add"),
        ("JDSTART", float(dates.min()) if dates.size else None, "JD of the earliest input"),
        ("JDEND", float(dates.max()) if dates.size else None, "JD of the latest input"),
        ("EXPTIME", float(_values(headers, "EXPTIME").sum()), "total exposure time (s)"),
        ("GAIN", images.gain, "effective gain of the co-add (e-/DN)"),
        ("SATURATE", saturate, "lowest saturation level of the inputs [DN]"),
        ("MAGZP", config.reference_zeropoint_mag, "zero point of the co-add [mag]"),
        ("MAGZPUNC", float(np.sqrt(np.mean(unc**2) / unc.size)) if unc.size else None, "zero point uncertainty [mag]"),
        ("MAGZPRMS", _middle(headers, "MAGZPRMS"), "median of the inputs [mag]"),
        ("CLRCOEFF", _middle(headers, "CLRCOEFF"), "median colour coefficient of the inputs"),
        ("CLRCOUNC", _middle(headers, "CLRCOUNC"), "median of the inputs"),
        ("SEEING", fwhm, "[pix] FWHM of the co-add"),
        ("SKYSIG", float(np.sqrt(images.sky_variance)), "noise of an empty pixel [DN]"),
        ("MAGLIM", _limit(images, catalogs, config), "5-sigma limit of PSF photometry [mag]"),
    )
    for keyword, value, comment in cards:
        if value is not None:
            header[keyword] = (value, comment)
    for k, (item, scale) in enumerate(zip(headers, images.scales, strict=True), start=1):
        header[f"INP{k:02d}"] = (str(item.get("FILENAME", item.get("EXPID", k))), f"x {scale:.4f}")
    return header


def _limit(images: Coadd, catalogs: Catalogs | None, config: ReferenceConfig) -> float | None:
    """5-sigma limiting magnitude on empty sky from the PSF's effective noise area."""
    if catalogs is None:
        return None
    ny, nx = images.pixels.shape
    stamp = catalogs.psf.stamp(0.5 * (nx - 1), 0.5 * (ny - 1))
    sigma = np.sqrt(images.sky_variance / np.sum(stamp.astype(float) ** 2))
    return float(config.reference_zeropoint_mag - 2.5 * np.log10(5 * sigma))
