"""Sections of compressed images: the same pixels as the whole image, from a part of its file; damage has a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from ztfds.formats import sections
from ztfds.formats.images import read_image, write_image
from ztfds.formats.sections import open_sections
from ztfds.survey.errors import FilesMissing, TruncatedFile, UnreadableFile, ZtfdsError

HEADER = fits.Header({"CRVAL1": 12.5, "CTYPE1": "RA---TPV", "SEEING": 2.25, "OTHER": 1})


def image(rng: np.random.Generator, shape: tuple[int, int] = (300, 330)) -> np.ndarray:
    pixels = rng.normal(0, 7, shape).astype(np.float32)
    pixels[40:70, 100:150], pixels[200, 200], pixels[10] = np.nan, 3e5, 0
    return pixels


TEXTS = ("RA---TPV", "it's O''Neil / 3", "", "  lead")
NUMBERS = (True, False, 0, -17, 12.5, -1.25e-21, 1e22, None)


@pytest.mark.parametrize("value", [*TEXTS, *NUMBERS])
@pytest.mark.parametrize("comment", ["", "of 'things' / 5 = T"])
def test_values_of_cards_are_those_that_were_written(value: object, comment: str) -> None:
    text = str(fits.Card("KEYWORD", value, comment)).encode()
    found = sections._value(text[8:80])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("text", "value"), [("1.5D+3", 1500.0), (".5", 0.5), ("+7", 7), ("5.", 5.0), ("1E2", 100.0)])
def test_numbers_of_other_writers_are_read(text: str, value: float) -> None:
    assert sections._value(f"= {text:>20} / x".ljust(72).encode()) == value


@pytest.mark.parametrize("text", ["= nonsense", "= 1 2", "= 'open", "  3", "= (1, 2)"])
def test_what_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no value"):
        sections._value(text.ljust(72).encode())


def cut(pixels: np.ndarray, y: int, x: int, half: int) -> np.ndarray:
    padded = np.pad(pixels, 400, constant_values=np.nan)
    return padded[y + 400 - half : y + 401 + half, x + 400 - half : x + 401 + half]


@pytest.mark.parametrize("tile", [None, (64, 64), (128, 128), (33, 77), (1, 330)])
def test_sections_are_the_pixels_of_the_whole(rng: np.random.Generator, tmp_path: Path, tile: tuple[int, int]) -> None:
    written = write_image(tmp_path / "a.fits.fz", image(rng), HEADER, tile=tile)
    whole = read_image(written.path)[0]
    with fits.open(written.path) as hdus:
        assert np.array_equal(hdus[1].data, whole, equal_nan=True)
    opened = open_sections(written.path, ["SEEING"], written.bytes)
    assert opened.shape == whole.shape
    assert opened.header == {
        "CRVAL1": 12.5, "CTYPE1": "RA---TPV", "SEEING": 2.25,
    }  # fmt: skip
    y, x = rng.integers(-30, 330, 60), rng.integers(-30, 360, 60)
    stamps = opened.stamps(y, x, 12)
    assert all(np.array_equal(stamps[k], cut(whole, y[k], x[k], 12), equal_nan=True) for k in range(60))
    assert opened.stamps(y[:0], x[:0], 5).shape == (0, 11, 11)


def test_small_tiles_cost_little_and_keep_the_error(rng: np.random.Generator, tmp_path: Path) -> None:
    pixels = rng.normal(0, 7, (512, 512)).astype(np.float32)
    sizes = [write_image(tmp_path / f"{k}.fits.fz", pixels, tile=t).bytes for k, t in enumerate((None, (128, 128)))]
    assert sizes[1] < 1.03 * sizes[0]
    assert np.abs(read_image(tmp_path / "1.fits.fz")[0] - pixels).max() < 0.6 * 7 / 8


def test_what_others_compress_is_read_too(rng: np.random.Generator, tmp_path: Path) -> None:
    pixels = image(rng)
    for k, options in enumerate(
        [
            {"compression_type": "RICE_1", "quantize_method": 2, "dither_seed": 5, "tile_shape": (40, 50)},
            {"compression_type": "RICE_1", "quantize_method": 1, "dither_seed": 5},
            {"compression_type": "GZIP_2", "quantize_level": 0.0},
        ]
    ):
        path = tmp_path / f"{k}.fits.fz"
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels, **options)]).writeto(path)
        whole = fits.getdata(path, 1)
        stamps = open_sections(path).stamps(np.array([50, 299]), np.array([120, 0]), 9)
        assert np.array_equal(stamps[0], cut(whole, 50, 120, 9), equal_nan=True)
        assert np.array_equal(stamps[1], cut(whole, 299, 0, 9), equal_nan=True)


def test_damage_is_named(rng: np.random.Generator, tmp_path: Path) -> None:
    written = write_image(tmp_path / "a.fits.fz", image(rng), HEADER, tile=(64, 64))
    content = written.path.read_bytes()
    with pytest.raises(FilesMissing):
        open_sections(tmp_path / "none.fits.fz")
    with pytest.raises(TruncatedFile, match="instead of"):
        open_sections(written.path, size=written.bytes + 1)
    damaged = tmp_path / "b.fits.fz"
    for broken in (b"", b"not fits" * 1000, content[:1000], content[:4000], content[:9000], content[:-9000]):
        damaged.write_bytes(broken)
        with pytest.raises((TruncatedFile, UnreadableFile)):
            open_sections(damaged)
    write_image(damaged.with_suffix(""), image(rng))
    with pytest.raises(UnreadableFile):
        open_sections(damaged.with_suffix(""))
    for _ in range(60):  # whatever is broken: either a named error or an answer, never anything else
        broken = bytearray(content)
        for at in rng.integers(2880, len(content), 20):
            broken[at] = rng.integers(256)
        damaged.write_bytes(broken)
        try:
            stamps = open_sections(damaged).stamps(np.arange(0, 300, 40), np.arange(0, 320, 40), 12)
            assert stamps.shape == (8, 25, 25)
        except ZtfdsError as error:
            assert isinstance(error, TruncatedFile | UnreadableFile)
