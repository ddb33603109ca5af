"""Small sections of large Rice-compressed float images: only the tiles that are needed are read from disk and decoded."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ztfds.formats import structure
from ztfds.formats.images import decode_image
from ztfds.formats.raw import read_content
from ztfds.formats.structure import BLOCK
from ztfds.kernels import packing
from ztfds.survey.errors import FilesMissing, StoreDown, TruncatedFile, UnreadableFile

Card = str | bool | int | float
"""Value of a header card."""
_HEADER_BYTES = 1 << 17
_CARD = 80
_STORAGE = re.compile(rb"XTENSION|NAXIS\d*|PCOUNT|GCOUNT|THEAP|TFIELDS|TTYPE\d+|TFORM\d+|Z[A-Z]+\d*")
_WORLD = re.compile(
    rb"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)\d|(CD|PC)\d_\d|(PV|PS)\d_\d+|(A|B|AP|BP)_(ORDER|\d_\d)|LONPOLE|LATPOLE|RADESYS"
    rb"|EQUINOX|WCSAXES"
)
_VALUE = re.compile(
    rb"= +(?:'(?P<text>(?:[^']|'')*)'|(?P<flag>[TF])|(?P<integer>[+-]?\d+)|(?P<real>[+-]?(?:\d+\.?\d*|\.\d+)(?:[EDed][+-]?\d+)?)) *(?:/.*)?"
)
_FORMS = {"1PB": (">i4", (2,)), "1QB": (">i8", (2,)), "1D": (">f8", ()), "1J": (">i4", ())}


@dataclass(frozen=True)
class _Tiles:
    """Where the tiles of an image are in its file, and how they are coded."""

    table: np.ndarray
    heap: int
    size: tuple[int, int]
    block: int
    blank: int
    dither: int


@dataclass(frozen=True)
class SectionedImage:
    """An image of which sections can be read.

    Attributes
    ----------
    path : Path
    header : dict
        Values of its world coordinates and of the cards that were asked for; those that its file does not have are absent.
    shape : (int, int)
        Rows and columns.
    """

    path: Path
    header: dict[str, Card]
    shape: tuple[int, int]
    _tiles: _Tiles | None = field(repr=False)

    def stamps(self, y: np.ndarray, x: np.ndarray, half: int) -> np.ndarray:
        """Square sections centred on pixels.

        Parameters
        ----------
        y, x : (n,) int
            Rows and columns of the centres, 0-based; they may lie off the image.
        half : int
            Half side, px.

        Returns
        -------
        (n, 2 half + 1, 2 half + 1) float32
            NaN where the image has no data and off the image.

        Raises
        ------
        FilesMissing, StoreDown, TruncatedFile, UnreadableFile
        """
        y, x = np.asarray(y, np.int64), np.asarray(x, np.int64)
        out = np.full((y.size, 2 * half + 1, 2 * half + 1), np.nan, np.float32)
        if self._tiles is None:
            pixels = decode_image(read_content(self.path), self.path.name)[0]
            _paste(out, y - half, x - half, pixels, (0, 0), range(y.size))
            return out
        wanted = _touched(y - half, x - half, out.shape[1], self.shape, self._tiles.size)
        columns = -(-self.shape[1] // self._tiles.size[1])
        for number, pixels in zip(wanted, self._decoded(self._tiles, sorted(wanted)), strict=True):
            row, column = divmod(number, columns)
            corner = (row * self._tiles.size[0], column * self._tiles.size[1])
            _paste(out, y - half, x - half, pixels, corner, wanted[number])
        return out

    def _decoded(self, tiles: _Tiles, numbers: list[int]) -> list[np.ndarray]:
        """Pixels of some tiles."""
        found, rows = [], tiles.table[numbers]
        (ny, nx), (height, width) = self.shape, tiles.size
        columns = -(-nx // width)
        for number, row, code in zip(numbers, rows, _pieces(self.path, tiles, rows), strict=True):
            part = (min(height, ny - number // columns * height), min(width, nx - number % columns * width))
            pixels = np.empty(part, np.float32)
            if _decode(tiles, number, row, code, pixels):
                raise UnreadableFile(f"{self.path.name}: tile {number} is damaged")
            found.append(pixels)
        return found


def open_sections(path: Path | str, keywords: Collection[str] = (), size: int | None = None) -> SectionedImage:
    """Look at a compressed image without reading its pixels.

    Parameters
    ----------
    path : Path or str
        Its first extension holds the image.
    keywords : collection of str
        Cards wanted in the header, besides the world coordinates.
    size : int, optional
        What the file should have, bytes.

    Raises
    ------
    FilesMissing, StoreDown, TruncatedFile, UnreadableFile
    """
    path = Path(path)
    with _opened(path) as stream:
        start = stream.read(_HEADER_BYTES)
        there = os.fstat(stream.fileno()).st_size
        if size is not None and there != size:
            raise TruncatedFile(f"{path.name} has {there} bytes instead of {size}")
        storage, header, data = _headers(start, path.name, {keyword.encode() for keyword in keywords})
        stream.seek(data)
        table = stream.read(int(storage["NAXIS1"]) * int(storage["NAXIS2"]))
    shape = (int(storage["ZNAXIS2"]), int(storage["ZNAXIS1"]))
    try:
        return SectionedImage(path, header, shape, _layout(storage, table, data, there, path.name))
    except (KeyError, ValueError, TypeError) as error:
        raise UnreadableFile(f"{path.name}: its table of tiles cannot be understood ({error!r})") from error


def _opened(path: Path) -> io.FileIO:
    """The file, open for reading without a buffer of its own."""
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise FilesMissing(f"{path} does not exist") from error
    except OSError as error:
        raise StoreDown(f"{path} cannot be read: {error}") from error


def _headers(start: bytes, name: str, wanted: set[bytes]) -> tuple[dict[str, Card], dict[str, Card], int]:
    """Storage cards and kept cards of the first extension, and where its data begin.

    Twenty images are opened for the alerts of one quadrant: general readers of headers take longer than the pixels.
    """
    if not start.startswith(b"SIMPLE  ="):
        raise UnreadableFile(f"{name} is not a FITS file") if start else TruncatedFile(f"{name} is empty")
    begin = structure.header_end(start, 0, 0, name)
    data = structure.header_end(start, begin, 1, name)
    described: dict[str, Card] = {}
    header: dict[str, Card] = {}
    try:
        for at in range(begin, data, _CARD):
            name_of_card = start[at : at + 8].rstrip()
            part = described if _STORAGE.fullmatch(name_of_card) else header
            if part is described or name_of_card in wanted or _WORLD.fullmatch(name_of_card):
                value = _value(start[at + 8 : at + _CARD])
                if value is not None:
                    part[name_of_card.decode("ascii")] = value
        if not described.get("ZIMAGE", False) or described["ZNAXIS"] != 2:
            raise UnreadableFile(f"{name}: its first extension is no compressed image")
        for keyword in ("NAXIS1", "NAXIS2", "ZNAXIS1", "ZNAXIS2"):
            int(described[keyword])
    except (ValueError, KeyError) as error:
        raise UnreadableFile(f"{name}: its header cannot be understood ({error})") from error
    return described, header, data


def _value(rest: bytes) -> Card | None:
    """Value of a card from what stands behind its keyword (FITS standard 4.0, section 4.2); None where it is undefined.

    Raises
    ------
    ValueError
        It is not text, T or F, or a number.
    """
    found = _VALUE.fullmatch(rest)
    if found is None:
        if rest.startswith(b"= ") and not rest[2:].partition(b"/")[0].strip():
            return None
        raise ValueError(f"no value in {rest!r}")
    text, flag, integer, real = found.group("text", "flag", "integer", "real")
    if real is not None:
        return float(real.replace(b"D", b"E").replace(b"d", b"e"))
    if text is not None:
        return text.replace(b"''", b"'").rstrip().decode("ascii")
    return flag == b"T" if flag is not None else int(integer)


def _layout(storage: Mapping[str, Card], content: bytes, data: int, size: int, name: str) -> _Tiles | None:
    """How the tiles lie, checked against the file; None where they are not all dithered floats in Rice code."""
    settings: dict[Any, Any] = {storage.get(f"ZNAME{k}"): storage.get(f"ZVAL{k}") for k in range(1, 9)}
    fields = []
    for k in range(1, int(storage["TFIELDS"]) + 1):
        form = str(storage[f"TFORM{k}"]).split("(")[0].strip()
        fields.append((str(storage[f"TTYPE{k}"]), *_FORMS[form if form[0] == "1" else f"1{form}"]))
    kind = (storage.get("ZCMPTYPE"), storage.get("ZBITPIX"), storage.get("ZQUANTIZ"), settings.get("BYTEPIX", 4))
    if kind != ("RICE_1", -32, "SUBTRACTIVE_DITHER_2", 4):
        return None
    if len(content) < int(storage["NAXIS1"]) * int(storage["NAXIS2"]):
        raise TruncatedFile(f"{name} ends inside its table of tiles")
    table = np.frombuffer(content, np.dtype(fields))
    heap = data + int(storage.get("THEAP", table.nbytes))
    lengths, offsets = table["COMPRESSED_DATA"].astype(np.int64).T
    if (lengths <= 0).any():
        return None
    if (offsets < 0).any() or (offsets + lengths + heap).max() > size - size % BLOCK:
        raise TruncatedFile(f"{name}: tiles lie behind its end")
    tile = (int(storage["ZTILE2"]), int(storage["ZTILE1"]))
    blank = int(storage.get("ZBLANK", packing.NULL_VALUE))
    return _Tiles(table, heap, tile, int(settings.get("BLOCKSIZE", 32)), blank, int(storage.get("ZDITHER0", 1)))


def _decode(tiles: _Tiles, number: int, row: np.void, code: np.ndarray, pixels: np.ndarray) -> int:
    """Decode one tile into `pixels`, (rows, columns) float32; 1 if it is damaged."""
    where = np.zeros(1, np.int64), np.array([code.size], np.int64)
    scale, zero = np.array([row["ZSCALE"]], np.float64), np.array([row["ZZERO"]], np.float64)
    seed = (tiles.dither + number - 1) % packing.N_RANDOM + 1
    rows, block, blank = pixels.shape[0], tiles.block, tiles.blank
    return packing.decode_floats(
        code, where[0], where[1], scale, zero, rows, block, seed, blank, packing.RANDOMS, packing.LEADING, pixels
    )


def _touched(
    y0: np.ndarray, x0: np.ndarray, side: int, shape: tuple[int, int], size: tuple[int, int]
) -> dict[int, list[int]]:
    """Tiles that stamps touch, in order, with the stamps that touch each."""
    columns = -(-shape[1] // size[1])
    found: dict[int, list[int]] = {}
    for k, (j, i) in enumerate(zip(y0.tolist(), x0.tolist(), strict=True)):
        for row in range(max(j, 0) // size[0], (min(j + side, shape[0]) - 1) // size[0] + 1):
            for column in range(max(i, 0) // size[1], (min(i + side, shape[1]) - 1) // size[1] + 1):
                found.setdefault(row * columns + column, []).append(k)
    return dict(sorted(found.items()))


def _pieces(path: Path, tiles: _Tiles, rows: np.ndarray) -> list[np.ndarray]:
    """The code of some tiles, read one by one."""
    found = []
    with _opened(path) as stream:
        for length, offset in rows["COMPRESSED_DATA"].tolist():
            try:
                code = os.pread(stream.fileno(), length, tiles.heap + offset)
            except OSError as error:
                raise StoreDown(f"{path} cannot be read: {error}") from error
            if len(code) < length:
                raise TruncatedFile(f"{path.name} ends inside a tile")
            found.append(np.frombuffer(code, np.uint8))
    return found


def _paste(
    out: np.ndarray,
    y0: np.ndarray,
    x0: np.ndarray,
    pixels: np.ndarray,
    corner: tuple[int, int],
    which: Collection[int],
) -> None:
    """Copy what a part of an image, whose first pixel is `corner`, has of some stamps."""
    side = out.shape[1]
    for k in which:
        j, i = int(y0[k]) - corner[0], int(x0[k]) - corner[1]
        top, bottom = max(j, 0), min(j + side, pixels.shape[0])
        left, right = max(i, 0), min(i + side, pixels.shape[1])
        if top < bottom and left < right:
            out[k, top - j : bottom - j, left - i : right - i] = pixels[top:bottom, left:right]
