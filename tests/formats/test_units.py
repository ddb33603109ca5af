"""Bytes that we write and read ourselves, held against astropy's: plain and Rice-coded images, tables, damage."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits

from ztfds.formats import structure, units
from ztfds.kernels import packing
from ztfds.survey.errors import UnreadableFile


def content_of(*parts: units.Unit) -> bytes:
    """A whole file."""
    return b"".join(memoryview(piece).cast("B") for piece in units.sealed(parts))


def by_astropy(content: bytes, index: int) -> np.ndarray:
    """Pixels of one HDU as astropy decodes them."""
    with fits.open(io.BytesIO(content), checksum=True) as hdus:
        return np.array(hdus[index].data)


def by_us(content: bytes, index: int) -> np.ndarray:
    """Pixels of one HDU as we decode them."""
    read = units.read_image(content, structure.walk(content)[index], "file")
    assert read is not None
    return read[0]


def awkward(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Integers with every kind of Rice block: empty, quiet, steep, and noise over the whole range."""
    pixels = rng.integers(990, 1010, shape).astype(np.uint16)
    pixels[: shape[0] // 4] = 1000
    pixels[shape[0] // 2, ::2], pixels[shape[0] // 2, 1::2] = 0, 65535
    pixels[-shape[0] // 4 :] = rng.integers(0, 65536, pixels[-shape[0] // 4 :].shape)
    return pixels


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("shape", [(200, 333), (88, 64), (89, 1), (1, 5), (3, 3000)])
def test_tiled_integers_are_the_same_for_astropy(rng: np.random.Generator, shape: tuple[int, int], dtype: type) -> None:
    pixels = awkward(rng, shape).view(np.uint16).astype(dtype)
    content = content_of(units.primary(), units.rice(pixels, b""))
    np.testing.assert_array_equal(by_astropy(content, 1), pixels)
    np.testing.assert_array_equal(by_us(content, 1), pixels)
    assert structure.verify_checksums(content, structure.walk(content)) == 2


@pytest.mark.parametrize("tile", [(1, 333), (88, 333), (200, 333)])
def test_integers_tiled_by_astropy_are_read(rng: np.random.Generator, tile: tuple[int, int]) -> None:
    pixels = awkward(rng, (200, 333))
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels, compression_type="RICE_1", tile_shape=tile)]).writeto(
        buffer
    )
    np.testing.assert_array_equal(by_us(buffer.getvalue(), 1), pixels)


def sky(rng: np.random.Generator, shape: tuple[int, int] = (300, 700)) -> np.ndarray:
    """Noise, a bright spot, exact zeros and NaN; more pixels than there are random numbers for dithering."""
    image = rng.normal(0, 11, shape).astype(np.float32)
    image[100:110, 200:230] += 40000
    image[5, 6:60] = np.nan
    image[120:140, 50:90] = 0
    return image


def test_tiled_floats_are_the_same_for_astropy(rng: np.random.Generator) -> None:
    image = sky(rng)
    content = content_of(units.primary(), units.rice(image, units.cards_of(fits.Header({"MAGZP": 26.1})), 4.0))
    ours, theirs = by_us(content, 1), by_astropy(content, 1)
    np.testing.assert_array_equal(ours, theirs)
    assert np.array_equal(np.isnan(ours), np.isnan(image))
    assert (ours[image == 0] == 0).all()
    error = (ours - image)[np.isfinite(image)]
    assert np.abs(error).max() <= 0.51 * 1.1 * 11 / 4
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(error.size)


@pytest.mark.parametrize("tile", [(1, 700), (88, 700)])
def test_floats_tiled_by_astropy_are_read(rng: np.random.Generator, tile: tuple[int, int]) -> None:
    settings = {"compression_type": "RICE_1", "tile_shape": tile, "quantize_level": 4.0, "quantize_method": 2}
    buffer = io.BytesIO()
    hdu = fits.CompImageHDU(sky(rng), dither_seed=9998, **settings)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    read = units.read_image(buffer.getvalue(), structure.walk(buffer.getvalue())[1], "file")
    if tile[0] > 1:
        assert read is not None
    if read is not None:  # a row without noise is stored in another way, which is left to astropy
        np.testing.assert_array_equal(read[0], by_astropy(buffer.getvalue(), 1))


@pytest.mark.parametrize("pixels", [np.ones((9, 9), np.float32), np.full((9, 9), np.inf, np.float32), np.ones((9, 9))])
def test_what_cannot_be_quantised_is_left_to_others(pixels: np.ndarray) -> None:
    with pytest.raises(units.Unusual):
        units.rice(pixels, b"")


@pytest.mark.parametrize("shape", [(40, 50), (7, 33), (2, 3, 5), (5,)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int16])
def test_plain_images_are_the_same_for_astropy(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> None:
    pixels = rng.integers(0, 60000, shape).astype(np.uint16).astype(dtype)
    content = content_of(units.image(pixels, b""), units.image(pixels, b"", extension=True))
    for index in (0, 1):
        np.testing.assert_array_equal(by_astropy(content, index), pixels)
        np.testing.assert_array_equal(by_us(content, index), pixels)
    assert structure.verify_checksums(content, structure.walk(content)) == 2


def test_the_table_of_random_numbers_is_the_standards() -> None:
    """FITS standard 4.0, appendix I: after 10,000 steps the seed is 1043618065."""
    assert packing.RANDOMS[-1] == np.float32(1043618065 / 2147483647)


def test_header_cards_survive_with_their_kinds(rng: np.random.Generator) -> None:
    header = fits.Header()
    header["BITPIX"], header["NAXIS"], header["EXTNAME"] = -64, 7, "X"
    header["LONG"] = ("x" * 150, "a long text")
    header["HIERARCH a long keyword"] = 1.5
    header["FLAG"], header["COUNT"] = (True, "a flag"), 3
    header.add_comment("said")
    header.add_history("done")
    with fits.open(io.BytesIO(content_of(units.image(sky(rng), units.cards_of(header))))) as hdus:
        again = hdus[0].header
    assert again["LONG"] == "x" * 150 and again["FLAG"] is True and again["COUNT"] == 3
    assert again["a long keyword"] == 1.5 and again.comments["FLAG"] == "a flag"
    assert again["BITPIX"] == -32 and again["NAXIS"] == 2
    assert list(again["COMMENT"])[-1] == "said" and list(again["HISTORY"]) == ["done"]


def test_tables_are_the_same_for_astropy(rng: np.random.Generator) -> None:
    kinds = [
        ("a", "f8"),
        ("b", "f4", (6,)),
        ("c", "i2"),
        ("d", "i8"),
        ("e", "u1"),
        ("f", "U7"),
        ("g", "i4"),
        ("h", "?"),
    ]
    rows = np.zeros(7, np.dtype(kinds))
    for name in "abcdeg":
        rows[name] = rng.integers(0, 100, rows[name].shape)
    rows["h"] = [True, False, False, True, True, False, True]
    rows["f"] = ["x", "", "seven77", "a b", "y", "z", "w"]
    content = content_of(units.primary(), units.table(rows, "T", {"a": "deg"}))
    with fits.open(io.BytesIO(content), checksum=True) as hdus:
        table = hdus["T"]
        assert table.columns["a"].unit == "deg" and table.columns.names == [kind[0] for kind in kinds]
        for name in "abcdeg":
            np.testing.assert_array_equal(table.data[name], rows[name])
        assert table.data["h"].tolist() == rows["h"].tolist()
        assert table.data["f"].tolist() == rows["f"].tolist()
    again = units.read_table(content, structure.walk(content)[1])
    assert again is not None and again.dtype == rows.dtype
    np.testing.assert_array_equal(again, rows)
    with pytest.raises(units.Unusual):
        units.table(np.zeros(2, [("x", "c8")]), "T", {})


def test_damaged_code_is_never_more_than_unreadable(rng: np.random.Generator) -> None:
    """Any bytes at all in place of Rice code: an error by its name, or pixels; no other memory is read."""
    outcomes = []
    for part in (units.rice(awkward(rng, (60, 50)), b""), units.rice(sky(rng, (150, 230)), b"")):
        content = content_of(units.primary(), part)
        hdu = structure.walk(content)[1]
        for _ in range(150):
            broken = bytearray(content)
            at, n = int(rng.integers(hdu.data_start, hdu.end - 64)), int(rng.integers(1, 64))
            broken[at : at + n] = rng.bytes(n)
            try:
                read = units.read_image(bytes(broken), hdu, "file")
                outcomes.append("read" if read else "left")
            except UnreadableFile:
                outcomes.append("unreadable")
    assert set(outcomes) <= {"read", "left", "unreadable"} and outcomes.count("unreadable") > 20


def test_code_that_ends_too_early_is_damaged(rng: np.random.Generator) -> None:
    pixels = awkward(rng, (60, 50))
    code, ends = np.empty(4 * pixels.size + 128, np.uint8), np.empty(1, np.int64)
    used = packing.encode_halves(pixels, 0, 60, code, ends)
    out, start = np.empty_like(pixels), np.zeros(1, np.int64)
    for length in range(0, used, 37):
        cut = code[:length].copy()
        assert packing.decode_halves(cut, start, np.array([length]), 60, 32, 0, packing.LEADING, out) == 1
    for length in range(used - 40, used):
        assert packing.decode_halves(code, start, np.array([length]), 60, 32, 0, packing.LEADING, out) == 1
    whole = code[:used].copy()
    assert packing.decode_halves(whole, start, np.array([used]), 60, 32, 0, packing.LEADING, out) == 0
    np.testing.assert_array_equal(out, pixels)


def test_pixels_that_are_complete_long_before_the_code_ends_are_damaged(rng: np.random.Generator) -> None:
    """Padding to a word is a writer's right; a tile that says the same pixels in fewer bytes than it has was changed."""
    pixels = awkward(rng, (60, 50))
    code, ends = np.zeros(4 * pixels.size + 128, np.uint8), np.empty(1, np.int64)
    used = packing.encode_halves(pixels, 0, 60, code, ends)
    out, start = np.empty_like(pixels), np.zeros(1, np.int64)
    for extra, damaged in ((3, 0), (7, 0), (8, 1), (60, 1)):
        result = packing.decode_halves(code, start, np.array([used + extra]), 60, 32, 0, packing.LEADING, out)
        assert result == damaged
