"""Images of one quadrant in FITS: calibrated images, masks, differences, calibrations; plain or Rice-compressed."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from ztfds.formats import structure, units
from ztfds.formats.atomic import Written, view_of, write_atomic
from ztfds.formats.raw import read_content, write_hdus
from ztfds.formats.units import TILE_ROWS
from ztfds.survey.errors import BadData, MissingKeyword, UnreadableFile, WrongSize

_STRUCTURAL = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "EXTEND", "PCOUNT", "GCOUNT")
_HEADER_BYTES = 1 << 18
_SCALING = ("BZERO", "BSCALE", "BLANK", "CHECKSUM", "DATASUM")


def bare(header: fits.Header | None) -> fits.Header:
    """A copy of a header without the cards that describe the storage of pixels."""
    copied = fits.Header() if header is None else header.copy(strip=True)
    for keyword in (*_STRUCTURAL, *_SCALING, "ZNAXIS", "ZIMAGE"):
        copied.remove(keyword, ignore_missing=True, remove_all=True)
    return copied


def write_image(
    path: Path | str,
    pixels: np.ndarray,
    header: fits.Header | None = None,
    *,
    rice: bool | None = None,
    q: float = 8.0,
    extra: Mapping[str, np.ndarray] | None = None,
    tile: tuple[int, int] | None = None,
) -> Written:
    """Write one image atomically, with DATASUM and CHECKSUM.

    Parameters
    ----------
    path : Path or str
        Final name; ``.fits.fz`` asks for Rice compression unless `rice` says otherwise.
    pixels : ndarray, shape (ny, nx)
        float32 (NaN allowed), or any integer type.
    header : fits.Header, optional
        Cards to keep; cards about storage are made anew.
    rice : bool, optional
        Compress by Rice tiles: integers without loss; floats quantised to sigma/`q` with subtractive dithering whose
        seed comes from the pixels, so that the same image makes the same file.
    q : float
        Quantisation levels per noise sigma (astropy: quantize_level).
    extra : mapping of str to ndarray, optional
        Further image extensions by EXTNAME, stored the same way.
    tile : (rows, columns), optional
        Size of the Rice tiles of a float image, for images of which small sections will be read
        (`ztfds.formats.sections`); default: whole rows.

    Returns
    -------
    Written
    """
    path = Path(path)
    squeeze = path.name.endswith(".fz") if rice is None else rice
    images = [(pixels, header), *((image, fits.Header({"EXTNAME": name})) for name, image in (extra or {}).items())]
    try:
        return write_atomic(path, units.sealed(_units(images, squeeze, q, tile)))
    except units.Unusual:
        return write_hdus(path, _hdus(images, squeeze, q, tile))


def _units(
    images: Sequence[tuple[np.ndarray, fits.Header | None]], squeeze: bool, q: float, tile: tuple[int, int] | None
) -> list[units.Unit]:
    """The images as bytes; raises `units.Unusual` if one of them is of a kind that only astropy writes."""
    if squeeze:
        parts = (units.rice(_two_axes(pixels), units.cards_of(card), q, tile) for pixels, card in images)
        return [units.primary(), *parts]
    return [units.image(pixels, units.cards_of(card), extension=k > 0) for k, (pixels, card) in enumerate(images)]


def _hdus(
    images: Sequence[tuple[np.ndarray, fits.Header | None]], squeeze: bool, q: float, tile: tuple[int, int] | None
) -> fits.HDUList:
    """The same by way of astropy."""
    if squeeze:
        return fits.HDUList([fits.PrimaryHDU(), *(_rice(pixels, bare(card), q, tile) for pixels, card in images)])
    (pixels, card), *others = images
    return fits.HDUList(
        [fits.PrimaryHDU(_plain(pixels), bare(card)), *(fits.ImageHDU(_plain(image), bare(c)) for image, c in others)]
    )


def _two_axes(pixels: np.ndarray) -> np.ndarray:
    """The same pixels; raise `WrongSize` unless they can be tiled."""
    if pixels.ndim != 2:
        raise WrongSize(f"only two-dimensional images are compressed, not {pixels.shape}")
    return pixels


def _plain(pixels: np.ndarray) -> np.ndarray:
    """Pixels in a type that FITS knows: booleans become bytes."""
    return pixels.astype(np.uint8) if pixels.dtype == bool else np.ascontiguousarray(pixels)


def _rice(pixels: np.ndarray, header: fits.Header, q: float, tile: tuple[int, int] | None = None) -> fits.CompImageHDU:
    """One Rice-compressed extension."""
    pixels = _plain(pixels)
    rows, columns = tile or (TILE_ROWS, pixels.shape[1])
    tile = (min(rows, pixels.shape[0]), min(columns, pixels.shape[1]))
    if pixels.dtype.kind != "f":
        return fits.CompImageHDU(pixels, header, compression_type="RICE_1", tile_shape=tile)
    # Dithering by DITHER_SEED_CHECKSUM = -1; method 2 keeps exact zeros exact.
    return fits.CompImageHDU(
        pixels.astype(np.float32, copy=False),
        header,
        compression_type="RICE_1",
        tile_shape=tile,
        quantize_level=q,
        quantize_method=2,
        dither_seed=-1,
    )


def read_image(path: Path | str, extname: str | None = None, *, verify: bool = False) -> tuple[np.ndarray, fits.Header]:
    """Read one image.

    Parameters
    ----------
    path : Path or str
        A file with an image in the primary HDU or in an extension, compressed or not.
    extname : str, optional
        Extension to read; without it the first HDU that holds an image.
    verify : bool
        Check DATASUM and CHECKSUM first where they are present.

    Returns
    -------
    pixels : ndarray, shape (ny, nx)
        In the machine's byte order; scaled integers as unsigned.
    header : fits.Header
        Its header; storage cards that no longer hold are gone.

    Raises
    ------
    FilesMissing, StoreDown, TruncatedFile, UnreadableFile, ChecksumMismatch
    """
    path = Path(path)
    if not (extname or verify or path.name.endswith(".fz")) and (straight := _read_straight(path)):
        return straight
    content = read_content(path)
    hdus = structure.walk(content, path.name)
    if verify:
        structure.verify_checksums(content, hdus, path.name)
    wanted = [hdu for hdu in hdus if hdu.is_image and extname in (None, hdu.header.get("EXTNAME"))]
    read = units.read_image(content, wanted[0], path.name) if wanted else None
    return read or decode_image(content, path.name, extname)


def header_with(path: Path, keyword: str) -> fits.Header:
    """The first header of a FITS file that has a keyword.

    Raises
    ------
    FilesMissing, StoreDown, TruncatedFile, UnreadableFile
    MissingKeyword
        None has it.
    """
    for hdu in structure.walk(read_content(path), path.name):
        if keyword in hdu.header:
            return hdu.header
    raise MissingKeyword(f"{path.name} has no {keyword}")


def _read_straight(path: Path) -> tuple[np.ndarray, fits.Header] | None:
    """A plain primary image, read into the memory where it stays; None if the file is anything else or not whole."""
    try:
        with path.open("rb", buffering=0) as stream:
            start = stream.read(_HEADER_BYTES)
            if not start.startswith(b"SIMPLE  ="):
                return None
            hdu = structure.first(start, path.name)
            kind = units.plain_kind(hdu.header) if hdu.is_image else None
            if kind is None or stream.seek(0, os.SEEK_END) < hdu.end:
                return None
            pixels = np.empty(kind[1], kind[0])
            stream.seek(hdu.data_start)
            if stream.readinto(view_of(pixels)) != pixels.nbytes:
                return None
    except (OSError, BadData):  # the way that reads everything says what is wrong
        return None
    return units.turn(pixels), units.without_storage(hdu.header)


def decode_image(content: bytes, name: str, extname: str | None = None) -> tuple[np.ndarray, fits.Header]:
    """Read one image of any kind from the bytes of a FITS file by way of astropy; see `read_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fits.verify.VerifyWarning)
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                hdu = hdus[extname] if extname else next(h for h in hdus if h.is_image and h.header["NAXIS"] > 0)
                pixels = hdu.data
                header = bare(hdu.header)
    except StopIteration:
        raise UnreadableFile(f"{name} holds no image") from None
    except KeyError as error:
        raise UnreadableFile(f"{name} has no extension {extname}") from error
    except MemoryError:
        raise  # says nothing about the file
    except Exception as error:  # damaged bytes make the decoder raise anything, even classes that it keeps private
        raise UnreadableFile(f"{name}: the pixels cannot be decoded ({error!r})") from error
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("=")), header
