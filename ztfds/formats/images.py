"""Images of one quadrant in FITS: calibrated images, masks, differences, calibrations; plain or Rice-compressed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits

from ztfds.formats import structure
from ztfds.formats.atomic import Written
from ztfds.formats.raw import TILE_ROWS, read_content, write_hdus
from ztfds.survey.errors import UnreadableFile, WrongSize

_STRUCTURAL = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "EXTEND", "PCOUNT", "GCOUNT")
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

    Returns
    -------
    Written
    """
    path = Path(path)
    squeeze = path.name.endswith(".fz") if rice is None else rice
    hdus = fits.HDUList()
    if squeeze:
        hdus.extend([fits.PrimaryHDU(), _rice(pixels, bare(header), q)])
    else:
        hdus.append(fits.PrimaryHDU(_plain(pixels), bare(header)))
    for name, image in (extra or {}).items():
        card = fits.Header({"EXTNAME": name})
        hdus.append(_rice(image, card, q) if squeeze else fits.ImageHDU(_plain(image), card))
    return write_hdus(path, hdus)


def _plain(pixels: np.ndarray) -> np.ndarray:
    """Pixels in a type that FITS knows: booleans become bytes."""
    return pixels.astype(np.uint8) if pixels.dtype == bool else np.ascontiguousarray(pixels)


def _rice(pixels: np.ndarray, header: fits.Header, q: float) -> fits.CompImageHDU:
    """One Rice-compressed extension."""
    pixels = _plain(pixels)
    if pixels.ndim != 2:
        raise WrongSize(f"only two-dimensional images are compressed, not {pixels.shape}")
    tile = (min(TILE_ROWS, pixels.shape[0]), pixels.shape[1])
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
    content = read_content(path)
    hdus = structure.walk(content, path.name)
    if verify:
        structure.verify_checksums(content, hdus, path.name)
    return decode_image(content, path.name, extname)


def decode_image(content: bytes, name: str, extname: str | None = None) -> tuple[np.ndarray, fits.Header]:
    """Read one image from the bytes of a FITS file; see `read_image`."""
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
