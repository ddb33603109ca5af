"""Header-data units as bytes, without detours: images plain or in Rice tiles, and tables; and back.

What is written and read all night (float32 and 16-bit images, tables of plain columns) is done here with one pass over the
data; whatever else a FITS file may hold is left to astropy: the readers here return None, the writers raise `Unusual`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from astropy.io import fits

from ztfds.formats.atomic import Piece, view_of
from ztfds.formats.structure import BLOCK, Hdu, encode_checksum, fold, ones_complement_sum
from ztfds.kernels import packing
from ztfds.survey.errors import UnreadableFile

TILE_ROWS = 88
"""Rows of a tile: 35 tiles a quadrant; tiles of many rows are read twice as fast as tiles of one."""
_FLIP = 0x8000
_TYPES = {"float32": -32, "uint16": 16, "int16": 16}
_COLUMNS = {"b1": "L", "u1": "B", "i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D"}
_CODES = {code: ">" + kind for kind, code in _COLUMNS.items() if code != "L"}
_YES, _NO = ord("T"), ord("F")
_STORAGE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM|ZIMAGE|ZNAXIS"
)
_TILED = re.compile(
    r"TFIELDS|THEAP|Z(IMAGE|CMPTYPE|BITPIX|NAXIS\d*|TILE\d+|NAME\d+|VAL\d+|QUANTIZ|DITHER0|BLANK|TENSION|SIMPLE|EXTEND|"
    r"PCOUNT|GCOUNT|HECKSUM|DATASUM)|T(TYPE|FORM|UNIT|DIM)\d+"
)


class Unusual(Exception):
    """This module does not write such data; astropy does."""


@dataclass(frozen=True)
class Unit:
    """A header-data unit that is ready to be written.

    Attributes
    ----------
    cards : bytes
        All cards but the checksums and END.
    data : sequence of bytes or arrays
        The data in pieces, each but the last a multiple of 4 bytes long; padding is added when it is written.
    datasum : int
        Their 32-bit ones'-complement sum.
    """

    cards: bytes
    data: Sequence[Piece] = ()
    datasum: int = 0


def sealed(units: Iterable[Unit]) -> list[Piece]:
    """The pieces of a whole file, in order, with DATASUM and CHECKSUM in every unit (see `structure.seal`)."""
    pieces: list[Piece] = []
    for unit in units:
        cards = unit.cards + b"CHECKSUM= '0000000000000000'".ljust(80)
        header = cards + f"DATASUM = '{unit.datasum}'".encode().ljust(80) + b"END".ljust(80)
        header += b" " * (-len(header) % BLOCK)
        code = encode_checksum((ones_complement_sum(header) + unit.datasum) % 0xFFFFFFFF)
        at = len(cards) - 80 + len(b"CHECKSUM= '")
        pieces += [header[:at] + code + header[at + 16 :], *unit.data]
        size = sum(view_of(piece).nbytes for piece in unit.data)
        pieces.append(bytes(-size % BLOCK))
    return pieces


# -- cards -------------------------------------------------------------------------------------------------------------


def card(keyword: str, value: bool | int | float | str, comment: str = "") -> bytes:
    """One card of 80 bytes."""
    return str(fits.Card(keyword, value, comment).image).encode("ascii")


def cards_of(header: fits.Header | None) -> bytes:
    """The cards of a header as they are written, without those that describe the storage of pixels or rows.

    A card keeps its text once it is made, so that writing one header into four files costs little more than into one.
    """
    if header is None:
        return b""
    if "TFIELDS" in header:
        header = header.copy(strip=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)
        kept = (card.image for card in header.cards if not _STORAGE.fullmatch(card.keyword))
        return "".join(kept).encode("ascii")


def primary(cards: bytes = b"") -> Unit:
    """A primary unit without data."""
    return Unit(b"".join([card("SIMPLE", True), card("BITPIX", 8), card("NAXIS", 0), card("EXTEND", True), cards]))


def _scaling(dtype: np.dtype) -> bytes:
    """The cards that make stored signed integers unsigned."""
    return card("BSCALE", 1) + card("BZERO", 32768) if dtype == np.uint16 else b""


# -- images ------------------------------------------------------------------------------------------------------------


def image(pixels: np.ndarray, cards: bytes, *, extension: bool = False) -> Unit:
    """An uncompressed image of any number of axes; raises `Unusual` unless float32, uint16 or int16."""
    if pixels.dtype.name not in _TYPES:
        raise Unusual(pixels.dtype.name)
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    begin = card("XTENSION", "IMAGE") if extension else card("SIMPLE", True)
    axes = [card(f"NAXIS{k + 1}", n) for k, n in enumerate(reversed(pixels.shape))]
    end = card("PCOUNT", 0) + card("GCOUNT", 1) if extension else card("EXTEND", True)
    storage = [begin, card("BITPIX", _TYPES[pixels.dtype.name]), card("NAXIS", pixels.ndim), *axes, end]
    data, total = _swapped(pixels.ravel())
    return Unit(b"".join([*storage, _scaling(pixels.dtype), cards]), (data,), total)


def _swapped(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Pixels in the byte order of FITS, and their ones'-complement sum."""
    if values.dtype == np.float32:
        words = np.empty(values.size, np.uint32)
        return words, fold(packing.swap_words(values.view(np.uint32), words))
    halves = np.empty(values.size, np.uint16)
    flip = _FLIP if values.dtype == np.uint16 else 0
    return halves, fold(packing.swap_halves(values.view(np.uint16), flip, halves))


def rice(pixels: np.ndarray, cards: bytes, q: float = 8.0, tile: tuple[int, int] | None = None) -> Unit:
    """An image in Rice tiles of whole rows: 16-bit integers exactly, float32 quantised with dithering.

    Parameters
    ----------
    pixels : (ny, nx) float32, uint16 or int16
    cards : bytes
        The cards to keep.
    q : float
        Steps per noise sigma, for float32.
    tile : (rows, columns), optional
        Size of the tiles of a float32 image of which small sections will be read.

    Raises
    ------
    Unusual
        Another type, or floats that cannot be quantised (no noise, or infinite values).
    """
    if pixels.dtype.name not in _TYPES or pixels.size == 0:
        raise Unusual(pixels.dtype.name)
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    if tile and pixels.dtype != np.float32:
        raise Unusual("integers in small tiles")
    rows, columns = (min(a, b) for a, b in zip(tile or (TILE_ROWS, pixels.shape[1]), pixels.shape, strict=True))
    tiles = -(-pixels.shape[0] // rows) * -(-pixels.shape[1] // columns)
    code, ends = np.empty(4 * pixels.size + 64 * tiles + 64, np.uint8), np.empty(tiles, np.int64)
    table = np.zeros(tiles, [("code", ">i4", (2,)), ("scale", ">f8"), ("zero", ">f8")])
    if pixels.dtype == np.float32:
        storage, used = _rice_floats(pixels, (rows, columns), q, code, ends, table)
    else:
        table = np.zeros(tiles, [("code", ">i4", (2,))])
        flip = _FLIP if pixels.dtype == np.uint16 else 0
        used = packing.encode_halves(pixels.view(np.uint16), flip, rows, code, ends)
        storage = [card("ZNAME2", "BYTEPIX"), card("ZVAL2", 2)]
    begins = np.concatenate([[0], ends[:-1]])
    table["code"][:, 0], table["code"][:, 1] = ends - begins, begins
    begin = _tiled_cards(pixels, (rows, columns), table, used, int((ends - begins).max()))
    code[used : used + 4] = 0
    data = (table.view(np.uint8), code[: used + -used % 4])
    total = fold(ones_complement_sum(data[0]) + ones_complement_sum(data[1]))
    return Unit(b"".join([*begin, *storage, _scaling(pixels.dtype), cards]), data, total)


def _rice_floats(
    pixels: np.ndarray, tile: tuple[int, int], q: float, code: np.ndarray, ends: np.ndarray, table: np.ndarray
) -> tuple[list[bytes], int]:
    """Quantise and code a float image; returns the cards that say how, and the bytes used."""
    scale, zero = np.empty(ends.size), np.empty(ends.size)
    # The seed follows from the pixels, so that the same image makes the same file.
    seed = int(pixels[0].view(np.uint32).sum(dtype=np.uint64) % np.uint64(packing.N_RANDOM)) + 1
    if tile[1] == pixels.shape[1]:
        used = packing.encode_floats(pixels, tile[0], q, seed, packing.RANDOMS, code, ends, scale, zero)
    else:
        used = _encode_small_tiles(pixels, tile, q, seed, code, ends, scale, zero)
    if used < 0:
        raise Unusual("pixels that cannot be quantised")
    table["scale"], table["zero"] = scale, zero
    cards = [card("ZNAME2", "BYTEPIX"), card("ZVAL2", 4), card("ZQUANTIZ", "SUBTRACTIVE_DITHER_2")]
    return [*cards, card("ZDITHER0", seed), card("ZBLANK", packing.NULL_VALUE)], used


def _encode_small_tiles(
    pixels: np.ndarray, tile: tuple[int, int], q: float, seed: int, code: np.ndarray, ends: np.ndarray, scale: np.ndarray,
    zero: np.ndarray,
) -> int:  # fmt: skip
    """Quantise and code tiles that are narrower than the image, one after the other; see `packing.encode_floats`."""
    (rows, columns), (ny, nx) = tile, pixels.shape
    used, number = 0, 0
    for y in range(0, ny, rows):
        for x in range(0, nx, columns):
            part, one = np.ascontiguousarray(pixels[y : y + rows, x : x + columns]), slice(number, number + 1)
            dither = (seed + number - 1) % packing.N_RANDOM + 1
            args = (part.shape[0], q, dither, packing.RANDOMS, code[used:], ends[one], scale[one], zero[one])
            size = packing.encode_floats(part, *args)
            if size < 0:
                return size
            used += size
            ends[number] = used
            number += 1
    return used


def _tiled_cards(pixels: np.ndarray, tile: tuple[int, int], table: np.ndarray, used: int, longest: int) -> list[bytes]:
    """The cards of the binary table that holds a tiled image."""
    columns = [("COMPRESSED_DATA", f"1PB({longest})"), ("ZSCALE", "1D"), ("ZZERO", "1D")]
    fields = [
        card(f"{keyword}{k}", value)
        for k, column in enumerate(columns[: len(table.dtype.names or ())], start=1)
        for keyword, value in zip(("TTYPE", "TFORM"), column, strict=True)
    ]
    ny, nx = pixels.shape
    return [
        card("XTENSION", "BINTABLE"), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", table.dtype.itemsize),
        card("NAXIS2", len(table)), card("PCOUNT", used), card("GCOUNT", 1), card("TFIELDS", len(fields) // 2), *fields,
        card("ZIMAGE", True), card("ZCMPTYPE", "RICE_1"), card("ZBITPIX", _TYPES[pixels.dtype.name]), card("ZNAXIS", 2),
        card("ZNAXIS1", nx), card("ZNAXIS2", ny), card("ZTILE1", tile[1]), card("ZTILE2", tile[0]),
        card("ZNAME1", "BLOCKSIZE"), card("ZVAL1", packing.RICE_BLOCK),
    ]  # fmt: skip


def read_image(content: bytes, hdu: Hdu, name: str) -> tuple[np.ndarray, fits.Header] | None:
    """Pixels and header of one image unit, or None if it is stored in a way that only astropy reads.

    Parameters
    ----------
    content : bytes
        The whole file.
    hdu : Hdu
        One of `structure.walk`'s.
    name : str
        What to call the file in messages.

    Raises
    ------
    UnreadableFile
        The compressed pixels are damaged.
    """
    if not hdu.header.get("ZIMAGE", False):
        pixels = _plain_pixels(content, hdu)
        return None if pixels is None else (pixels, without_storage(hdu.header))
    try:
        pixels = _tiled_pixels(content, hdu)
    except (ValueError, TypeError, KeyError) as error:
        raise UnreadableFile(f"{name}: the pixels of HDU {hdu.index} cannot be decoded ({error})") from error
    return None if pixels is None else (pixels, without_storage(hdu.header, tiled=True))


def without_storage(header: fits.Header, *, tiled: bool = False) -> fits.Header:
    """A header without the cards that describe how pixels are stored."""
    patterns = (_STORAGE, _TILED) if tiled else (_STORAGE,)
    return fits.Header([card for card in header.cards if not any(p.fullmatch(card.keyword) for p in patterns)])


def _kind(header: fits.Header, bitpix: int) -> np.dtype | None:
    """Type of the pixels in memory, None if they are scaled in any other way than unsigned integers are."""
    scaling = (header.get("BSCALE", 1), header.get("BZERO", 0))
    if "BLANK" in header:
        return None
    if bitpix == 16 and scaling == (1, 32768):
        return np.dtype(np.uint16)
    kinds: dict[int, np.dtype] = {16: np.dtype(np.int16), -32: np.dtype(np.float32)}
    return kinds.get(bitpix) if scaling == (1, 0) else None


def plain_kind(header: fits.Header) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Type and shape of an uncompressed image, or None if it is another thing or stored in an unusual way."""
    dtype = _kind(header, header["BITPIX"])
    if dtype is None or header.get("XTENSION", "IMAGE").strip() != "IMAGE" or header.get("PCOUNT", 0):
        return None
    return dtype, tuple(int(header[f"NAXIS{k}"]) for k in range(header["NAXIS"], 0, -1))


def turn(pixels: np.ndarray) -> np.ndarray:
    """Pixels whose memory holds what a file stores: brought to the machine's byte order where they are."""
    flat = pixels.reshape(-1)
    if pixels.dtype == np.float32:
        packing.swap_words_here(flat.view(np.uint32))
    else:
        packing.swap_halves_here(flat.view(np.uint16), _FLIP if pixels.dtype == np.uint16 else 0)
    return pixels


def _plain_pixels(content: bytes, hdu: Hdu) -> np.ndarray | None:
    """Pixels of an uncompressed image."""
    kind = plain_kind(hdu.header)
    if kind is None:
        return None
    stored = np.frombuffer(content, kind[0], int(np.prod(kind[1])), hdu.data_start)
    return turn(stored.reshape(kind[1]).copy())


def _tiled_pixels(content: bytes, hdu: Hdu) -> np.ndarray | None:
    """Pixels of an image in Rice tiles of whole rows, 16-bit or dithered floats; ValueError if it is damaged."""
    header = hdu.header
    settings = {header.get(f"ZNAME{k}"): header.get(f"ZVAL{k}") for k in range(1, 9) if f"ZNAME{k}" in header}
    dtype, nx, ny = _kind(header, header.get("ZBITPIX", 0)), header.get("ZNAXIS1", 0), header.get("ZNAXIS2", 0)
    rows, block = min(header.get("ZTILE2", 1), ny), settings.get("BLOCKSIZE", 32)
    usual = header.get("ZCMPTYPE") == "RICE_1" and header.get("ZNAXIS") == 2 and header.get("ZTILE1", nx) == nx
    if dtype is None or not usual or settings.get("BYTEPIX", 4) != dtype.itemsize or min(nx, ny, rows, block) < 1:
        return None
    table = _tile_table(content, hdu, -(-ny // rows))
    if table is None:
        return None
    heap = hdu.data_start + table.nbytes
    lengths, offsets = table["COMPRESSED_DATA"].astype(np.int64).T
    if (lengths <= 0).any():  # a tile that was stored in another way
        return None
    offsets = offsets + heap
    if (offsets < heap).any() or (offsets + lengths > hdu.end).any():
        raise ValueError("a tile lies outside the data")
    pixels, code = np.empty((ny, nx), dtype), np.frombuffer(content, np.uint8)
    places = np.ascontiguousarray(offsets), np.ascontiguousarray(lengths)
    if dtype != np.float32:
        flip = _FLIP if dtype == np.uint16 else 0
        damaged = packing.decode_halves(code, *places, rows, block, flip, packing.LEADING, pixels.view(np.uint16))
    elif header.get("ZQUANTIZ") == "SUBTRACTIVE_DITHER_2" and {"ZSCALE", "ZZERO"} <= set(table.dtype.names or ()):
        scale, zero = (table[name].astype(np.float64) for name in ("ZSCALE", "ZZERO"))
        seed, blank = header.get("ZDITHER0", 1), header.get("ZBLANK", packing.NULL_VALUE)
        damaged = packing.decode_floats(
            code, *places, scale, zero, rows, block, seed, blank, packing.RANDOMS, packing.LEADING, pixels
        )
    else:
        return None
    if damaged:
        raise ValueError(f"{damaged} of {len(table)} tiles are damaged")
    return pixels


def _tile_table(content: bytes, hdu: Hdu, tiles: int) -> np.ndarray | None:
    """The rows of the binary table that holds a tiled image: descriptor (length, offset) and scaling of each tile."""
    header = hdu.header
    fields: list[tuple[str, str, tuple[int, ...]]] = []
    for k in range(1, header["TFIELDS"] + 1):
        form = header[f"TFORM{k}"].strip()
        if form.startswith(("1PB", "PB", "1PI", "PI", "1PJ", "PJ")):
            fields.append((header[f"TTYPE{k}"], ">i4", (2,)))
        elif form in ("1D", "D"):
            fields.append((header[f"TTYPE{k}"], ">f8", ()))
        else:
            return None
    dtype = np.dtype(fields)
    usual = (
        dtype.itemsize == header["NAXIS1"] and header["NAXIS2"] == tiles and "COMPRESSED_DATA" in (dtype.names or ())
    )
    if not usual or header.get("THEAP", dtype.itemsize * tiles) != dtype.itemsize * tiles:
        return None
    return np.frombuffer(content, dtype, tiles, hdu.data_start)


# -- tables ------------------------------------------------------------------------------------------------------------


def table(rows: np.ndarray, extname: str, units: Mapping[str, str]) -> Unit:
    """A binary table; raises `Unusual` unless its columns are numbers, text, or vectors of numbers.

    Parameters
    ----------
    rows : structured (n,)
    extname : str
    units : mapping of str to str
        TUNIT by column.
    """
    names = rows.dtype.names or ()
    columns = [_column(rows.dtype[name]) for name in names]
    stored = np.dtype([(name, *column[1:]) for name, column in zip(names, columns, strict=True)])
    cards = [
        card("XTENSION", "BINTABLE"), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", stored.itemsize),
        card("NAXIS2", len(rows)), card("PCOUNT", 0), card("GCOUNT", 1), card("TFIELDS", len(names)),
    ]  # fmt: skip
    for k, (name, column) in enumerate(zip(names, columns, strict=True), start=1):
        cards += [card(f"TTYPE{k}", name), card(f"TFORM{k}", column[0])]
        if name in units:
            cards.append(card(f"TUNIT{k}", units[name]))
    cards.append(card("EXTNAME", extname))
    swapped = rows.astype(stored)
    for name, column in zip(names, columns, strict=True):
        if column[0].endswith("L"):
            swapped[name] = np.where(rows[name], _YES, _NO)
    data = swapped.tobytes()
    data += bytes(-len(data) % 4)
    return Unit(b"".join(cards), (data,), ones_complement_sum(data))


@cache
def _column(dtype: np.dtype) -> tuple[str, str, tuple[int, ...]]:
    """TFORM of a column, and its type and shape as stored."""
    base, shape = dtype.base, dtype.shape
    if base.kind in "SU" and not shape:
        width = base.itemsize // (4 if base.kind == "U" else 1)
        return f"{width}A", f"S{max(width, 1)}", ()
    kind = f"{base.kind}{base.itemsize}"
    if kind not in _COLUMNS or len(shape) > 1:
        raise Unusual(str(dtype))
    return f"{shape[0] if shape else 1}{_COLUMNS[kind]}", "u1" if kind == "b1" else f">{kind}", shape


def read_table(content: bytes, hdu: Hdu) -> np.ndarray | None:
    """Rows of a binary table in the machine's byte order with text as str, or None if only astropy can read it."""
    header = hdu.header
    stored: list[tuple[str, str, tuple[int, ...]]] = []
    wanted: list[tuple[str, str, tuple[int, ...]]] = []
    if header.get("PCOUNT", 0):
        return None
    for k in range(1, int(header["TFIELDS"]) + 1):
        form = re.fullmatch(r"(\d*)([LBIJKEDA])", str(header[f"TFORM{k}"]).strip())
        if form is None or any(f"{keyword}{k}" in header for keyword in ("TSCAL", "TZERO", "TDIM", "TNULL")):
            return None
        name, count, code = header[f"TTYPE{k}"], int(form[1] or 1), form[2]
        if code == "L":
            stored.append((name, "u1", () if count == 1 else (count,)))
            wanted.append((name, "?", () if count == 1 else (count,)))
        elif code == "A":
            stored.append((name, f"S{count}", ()))
            wanted.append((name, f"U{count}", ()))
        else:
            shape: tuple[int, ...] = (count,) if count != 1 else ()
            stored.append((name, _CODES[code], shape))
            wanted.append((name, _CODES[code].replace(">", "="), shape))
    if np.dtype(stored).itemsize != header["NAXIS1"]:
        return None
    rows = np.frombuffer(content, np.dtype(stored), int(header["NAXIS2"]), hdu.data_start)
    native = rows.astype(np.dtype(wanted))
    for name in (name for name, kind, _ in wanted if kind == "?"):
        native[name] = rows[name] == _YES
    return native
