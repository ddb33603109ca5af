"""Raw camera files: one FITS file per CCD with four quadrants and their overscans, Rice-compressed.

Primary HDU: metadata only. Extensions 1-4: quadrant images. Extensions 5-8: the overscan strips of quadrants 1-4.
Pixels are unsigned 16-bit integers (BZERO 32768). Arrays
keep the stored orientation: +x west, +y south in every quadrant.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from ztfds.formats import keywords, structure, units
from ztfds.formats.atomic import Written, write_atomic
from ztfds.survey.camera import rcid as rcid_of
from ztfds.survey.errors import BadData, FilesMissing, StoreDown, TruncatedFile, UnreadableFile, WrongSize
from ztfds.survey.names import RawName

QUADRANTS = (1, 2, 3, 4)
HDUS_OF_A_WHOLE_FILE = 9
_HEADERS_BYTES = 1 << 20
REQUIRED_KEYWORDS: dict[str, tuple[str, ...]] = {
    "o": ("IMGTYPE", "OBSJD", "EXPTIME", "CCD_ID", "FIELDID", "FILTERID", "PROGRMID", "RAD", "DECD", "AIRMASS"),
    "f": ("IMGTYPE", "OBSJD", "EXPTIME", "CCD_ID", "FILTERID"),
    "b": ("IMGTYPE", "OBSJD", "CCD_ID"),
    "d": ("IMGTYPE", "OBSJD", "EXPTIME", "CCD_ID"),
}
"""Primary-header keywords that the reduction cannot do without, by image-type letter."""


@dataclass(frozen=True)
class RawQuadrant:
    """One quadrant of a raw file.

    Attributes
    ----------
    qid : int
        Quadrant 1..4.
    rcid : int
        Readout channel 0..63.
    pixels : ndarray of uint16, shape (ny, nx)
        Raw DN as stored.
    overscan : ndarray of uint16, shape (ny, n_overscan)
        Overscan strip of the same rows, raw DN.
    header : fits.Header
        Header of its image extension.
    """

    qid: int
    rcid: int
    pixels: np.ndarray
    overscan: np.ndarray
    header: fits.Header


@dataclass(frozen=True)
class RawCcd:
    """A raw CCD file in memory.

    Attributes
    ----------
    header : fits.Header
        Primary header.
    name : RawName
        What the file name says.
    quadrants : tuple of RawQuadrant
        Quadrants 1 to 4 in this order.
    checksummed : int
        Number of HDUs whose checksums were present and right; 0 for a file that carries none.
    supplied : tuple of str
        Keywords that the primary header did not carry under the survey's names (see `ztfds.formats.keywords`).
    """

    header: fits.Header
    name: RawName
    quadrants: tuple[RawQuadrant, ...]
    checksummed: int = 0
    supplied: tuple[str, ...] = ()


def read_content(path: Path | str) -> bytes:
    """The bytes of a file; raise `FilesMissing` if it is not there and `StoreDown` if the disk refuses: the data may be good."""
    path = Path(path)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FilesMissing(f"{path} does not exist") from error
    except OSError as error:
        raise StoreDown(f"{path} cannot be read: {error}") from error


def read_primary_header(path: Path | str) -> fits.Header:
    """Primary header only; raise `TruncatedFile` or `UnreadableFile` if there is none. The rest is not looked at."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(1 << 18)
    except FileNotFoundError as error:
        raise FilesMissing(f"{path} does not exist") from error
    except OSError as error:
        raise StoreDown(f"{path} cannot be read: {error}") from error
    if not start.startswith(b"SIMPLE  ="):
        raise UnreadableFile(f"{path.name} is not a FITS file") if start else TruncatedFile(f"{path.name} is empty")
    end = structure.header_end(start, 0, 0, path.name)
    return fits.Header.fromstring(start[:end].decode("ascii", errors="replace"))


def read_raw(path: Path | str, shape: tuple[int, int] | None = None) -> RawCcd:
    """Read and verify a raw CCD file.

    Parameters
    ----------
    path : Path or str
        A file with a raw name; compressed or not.
    shape : tuple of int, optional
        Rows and columns that every quadrant must have; without it the four must agree with each other.

    Returns
    -------
    RawCcd
        With the survey's keywords, whatever synonyms the file uses (`ztfds.formats.keywords.normalise`).

    Raises
    ------
    BadName
        The name is not a raw file name.
    FilesMissing
        There is no such file.
    StoreDown
        The disk refuses.
    TruncatedFile
        It ends too early, be it inside an HDU or after a whole one.
    UnreadableFile
        It is not FITS or its compressed pixels cannot be decoded.
    ChecksumMismatch
        A DATASUM or CHECKSUM that is present is wrong. A file without any is accepted.
    WrongSize
        Quadrants or overscans do not have the shape they should.
    """
    path = Path(path)
    name = RawName.parse(path.name)
    content = read_content(path)
    hdus = structure.walk(content, path.name)
    checked = structure.verify_checksums(content, hdus, path.name)
    if len(hdus) < HDUS_OF_A_WHOLE_FILE:
        raise TruncatedFile(f"{path.name} ends after {len(hdus)} of {HDUS_OF_A_WHOLE_FILE} HDUs")
    images = _decode(content, hdus, path.name)
    quadrants = tuple(_quadrant(name.ccdid, qid, images[qid], images[qid + 4]) for qid in QUADRANTS)
    _check_shapes(path.name, quadrants, shape)
    header = hdus[0].header
    supplied = keywords.normalise(header, name, [quadrant.header for quadrant in quadrants])
    return RawCcd(header, name, quadrants, checked, supplied)


def peek_shape(path: Path | str) -> tuple[int, int] | None:
    """Rows and columns of the first quadrant by its header alone; None where nothing can be said."""
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(_HEADERS_BYTES)
        primary_end = structure.header_end(start, 0, 0, Path(path).name)
        end = structure.header_end(start, primary_end, 1, Path(path).name)
        header = fits.Header.fromstring(start[primary_end:end].decode("ascii"))
        prefix = "Z" if header.get("ZIMAGE", False) else ""
        return int(header[f"{prefix}NAXIS2"]), int(header[f"{prefix}NAXIS1"])
    except (BadData, OSError, KeyError, TypeError, ValueError):
        return None


def _decode(content: bytes, hdus: Sequence[structure.Hdu], name: str) -> list[tuple[np.ndarray, fits.Header]]:
    """Pixels and headers of the first nine HDUs (the primary has an empty array)."""
    decoded = [(np.empty((0, 0), np.uint16), hdus[0].header)]
    for hdu in hdus[1:HDUS_OF_A_WHOLE_FILE]:
        read = units.read_image(content, hdu, name) if hdu.is_image else None
        if read is None:
            return _decode_any(content, name)
        decoded.append(read)
    return [(_unsigned(pixels, index, name), header) for index, (pixels, header) in enumerate(decoded)]


def _decode_any(content: bytes, name: str) -> list[tuple[np.ndarray, fits.Header]]:
    """The same by way of astropy, however the pixels are stored."""
    decoded: list[tuple[np.ndarray | None, fits.Header]] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fits.verify.VerifyWarning)
            with fits.open(io.BytesIO(content), memmap=False, lazy_load_hdus=True) as hdus:
                for index in range(HDUS_OF_A_WHOLE_FILE):
                    decoded.append((hdus[index].data if index else np.empty((0, 0), np.uint16), hdus[index].header))
    except MemoryError:
        raise  # says nothing about the file
    except Exception as error:  # damaged bytes make the decoder raise anything, even classes that it keeps private
        raise UnreadableFile(f"{name}: the pixels cannot be decoded ({error!r})") from error
    return [(_unsigned(pixels, index, name), header) for index, (pixels, header) in enumerate(decoded)]


def _unsigned(pixels: np.ndarray | None, index: int, name: str) -> np.ndarray:
    """Pixels as native unsigned 16-bit integers."""
    if pixels is None or pixels.ndim != 2:
        raise WrongSize(f"{name}: HDU {index} holds no two-dimensional image")
    if pixels.dtype.kind not in "ui" or (pixels.dtype != np.uint16 and not _fits_16_bits(pixels)):
        raise WrongSize(f"{name}: HDU {index} holds {pixels.dtype.name} instead of unsigned 16-bit pixels")
    return np.ascontiguousarray(pixels, dtype=np.uint16)


def _fits_16_bits(pixels: np.ndarray) -> bool:
    """Whether integers of another type are all in the range of the converter."""
    return pixels.size == 0 or (int(pixels.min()) >= 0 and int(pixels.max()) <= 65535)


def _quadrant(
    ccdid: int, qid: int, image: tuple[np.ndarray, fits.Header], strip: tuple[np.ndarray, fits.Header]
) -> RawQuadrant:
    """Join the image and the overscan of one quadrant."""
    return RawQuadrant(qid, rcid_of(ccdid, qid), image[0], strip[0], image[1])


def _check_shapes(name: str, quadrants: Sequence[RawQuadrant], shape: tuple[int, int] | None) -> None:
    """Raise `WrongSize` unless all quadrants have the shape and each overscan the rows of its quadrant."""
    wanted = shape or quadrants[0].pixels.shape
    for quadrant in quadrants:
        if quadrant.pixels.shape != tuple(wanted):
            raise WrongSize(f"{name}: quadrant {quadrant.qid} is {quadrant.pixels.shape}, not {tuple(wanted)}")
        if quadrant.overscan.shape[0] != wanted[0] or quadrant.overscan.shape[1] < 1:
            raise WrongSize(f"{name}: overscan {quadrant.qid} is {quadrant.overscan.shape}, not {wanted[0]} rows")


def write_hdus(path: Path | str, hdus: fits.HDUList) -> Written:
    """Write a FITS file atomically, with DATASUM and CHECKSUM in every HDU."""
    buffer = io.BytesIO()
    hdus.writeto(buffer, output_verify="silentfix")
    return write_atomic(path, structure.seal(buffer.getvalue()))


def write_raw(path: Path | str, header: fits.Header, quadrants: Sequence[RawQuadrant]) -> Written:
    """Write a raw CCD file: primary header, four quadrants, four overscans, lossless Rice, DATASUM and CHECKSUM.

    Parameters
    ----------
    path : Path or str
        Where to; written atomically.
    header : fits.Header
        Primary header.
    quadrants : sequence of RawQuadrant
        Four, in order of qid; their headers go to the image extensions.
    """
    if [quadrant.qid for quadrant in quadrants] != list(QUADRANTS):
        raise WrongSize(f"a raw file has quadrants 1 to 4, not {[quadrant.qid for quadrant in quadrants]}")
    images = [(quadrant.pixels, quadrant.header, quadrant.qid) for quadrant in quadrants]
    images += [(q.overscan, fits.Header({"AMP_ID": q.qid - 1}), q.qid + 4) for q in quadrants]
    parts = [_compressed(pixels, card, str(number)) for pixels, card, number in images]
    return write_atomic(path, units.sealed([units.primary(units.cards_of(header)), *parts]))


def _compressed(pixels: np.ndarray, header: fits.Header, extname: str) -> units.Unit:
    """One Rice-compressed extension of unsigned 16-bit pixels."""
    header = header.copy()
    header["EXTNAME"] = extname
    return units.rice(pixels.astype(np.uint16, copy=False), units.cards_of(header))
