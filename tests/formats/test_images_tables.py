"""Images, tables and atomic writing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from ztfds.formats import tables
from ztfds.formats.atomic import describe, write_atomic
from ztfds.formats.images import read_image, write_image
from ztfds.survey.errors import ChecksumMismatch, FilesMissing, StoreDown, TruncatedFile, UnreadableFile


def sky(rng: np.random.Generator) -> np.ndarray:
    image = rng.normal(500, 11, (120, 90)).astype(np.float32)
    image[3, 4] = np.nan
    image[50:60, 20:30] += 40000
    return image


def test_plain_floats_are_exact(tmp_path: Path, rng: np.random.Generator) -> None:
    image = sky(rng)
    write_image(tmp_path / "a_sciimg.fits", image, fits.Header([("MAGZP", 26.1, "zero point")]))
    pixels, header = read_image(tmp_path / "a_sciimg.fits", verify=True)
    assert pixels.dtype == np.float32 and pixels.dtype.isnative
    assert np.array_equal(pixels, image, equal_nan=True)
    assert header["MAGZP"] == 26.1 and header.comments["MAGZP"] == "zero point"


@pytest.mark.parametrize("q", [4.0, 8.0])
def test_packed_floats_are_unbiased_within_the_noise(tmp_path: Path, rng: np.random.Generator, q: float) -> None:
    image = sky(rng)
    done = write_image(tmp_path / "a.fits.fz", image, fits.Header({"MAGZP": 26.1}), q=q)
    pixels, header = read_image(done.path, verify=True)
    error = pixels - image
    assert np.isnan(pixels[3, 4]) and np.isnan(pixels).sum() == 1
    assert np.nanmax(np.abs(error)) < 1.2 * 11 / q
    assert abs(np.nanmean(error)) < 0.1 * 11 / q
    assert header["MAGZP"] == 26.1
    assert done.bytes < image.nbytes
    assert write_image(tmp_path / "b.fits.fz", image, fits.Header({"MAGZP": 26.1}), q=q).sha256 == done.sha256


@pytest.mark.parametrize("name", ["m.fits", "m.fits.fz"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint8, bool])
def test_integers_are_exact_packed_or_not(tmp_path: Path, rng: np.random.Generator, name: str, dtype: type) -> None:
    image = (
        rng.integers(0, 2, (40, 50)).astype(dtype) if dtype is bool else rng.integers(0, 200, (40, 50)).astype(dtype)
    )
    if dtype is np.uint16:
        image[0, :2] = 4096, 65535
    write_image(tmp_path / name, image)
    pixels, _ = read_image(tmp_path / name, verify=True)
    assert np.array_equal(pixels, image)
    assert pixels.dtype == (np.uint8 if dtype is bool else dtype)


def test_headers_do_not_accumulate_storage_cards(tmp_path: Path, rng: np.random.Generator) -> None:
    header = fits.Header({"MAGZP": 26.1})
    for name in ("a.fits.fz", "b.fits", "c.fits.fz", "d.fits"):
        write_image(tmp_path / name, rng.integers(0, 9, (40, 50)).astype(np.uint16), header)
        _, header = read_image(tmp_path / name)
    write_image(tmp_path / "e.fits", sky(rng), header)
    pixels, header = read_image(tmp_path / "e.fits")
    assert pixels.shape == (120, 90)
    assert list(header) == ["MAGZP"]


def test_further_extensions(tmp_path: Path, rng: np.random.Generator) -> None:
    image, noise = sky(rng), np.abs(sky(rng))
    write_image(tmp_path / "bias.fits", image, extra={"UNC": noise})
    assert np.array_equal(read_image(tmp_path / "bias.fits", "UNC")[0], noise, equal_nan=True)
    with pytest.raises(UnreadableFile, match="no extension MASK"):
        read_image(tmp_path / "bias.fits", "MASK")


def test_broken_images_are_named(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.fits.fz"
    write_image(path, sky(rng))
    content = path.read_bytes()
    path.write_bytes(content[:-2880])
    with pytest.raises(TruncatedFile):
        read_image(path)
    middle = len(content) - 5000
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    with pytest.raises(ChecksumMismatch):
        read_image(path, verify=True)
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    with pytest.raises(UnreadableFile, match="holds no image"):
        read_image(tmp_path / "empty.fits")
    with pytest.raises(FilesMissing):
        read_image(tmp_path / "nothing.fits")


@pytest.mark.realdata
def test_a_real_image_is_read(real_data: Path) -> None:
    pixels, header = read_image(real_data / "decam" / "sfft_dec_obs04_obs18" / "input_data" / "DEC-OBS04a.mini.fits")
    assert pixels.shape == (256, 256)
    assert pixels.dtype.isnative and np.isfinite(pixels).any()
    assert "NAXIS" not in header


def catalog(rng: np.random.Generator) -> np.ndarray:
    rows = np.zeros(20, dtype=tables.PSFCAT_DTYPE)
    rows["sourceid"] = np.arange(20)
    rows["xpos"], rows["ypos"] = rng.uniform(0, 3071, 20), rng.uniform(0, 3079, 20)
    rows["ra"], rows["dec"] = rng.uniform(0, 360, 20), rng.uniform(-30, 90, 20)
    rows["flags"] = -1
    return rows


def test_catalog_positions_are_one_based_in_files_only(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = catalog(rng)
    tables.write_psfcat(tmp_path / "a_psfcat.fits", rows, fits.Header({"MAGZP": 26.1}))
    with fits.open(tmp_path / "a_psfcat.fits") as hdus:
        table = hdus["PSF_CATALOG"]
        names = "sourceid xpos ypos ra dec flux sigflux mag sigmag snr chi sharp flags"
        assert table.columns.names == names.split()
        assert table.columns["ra"].unit == "deg"
        assert np.allclose(table.data["xpos"], rows["xpos"] + 1)
    again, header = tables.read_psfcat(tmp_path / "a_psfcat.fits")
    assert again.dtype == rows.dtype
    assert np.allclose(again["xpos"], rows["xpos"], atol=3e-4) and np.allclose(again["ypos"], rows["ypos"], atol=3e-4)
    for name in set(names.split()) - {"xpos", "ypos"}:
        assert np.array_equal(again[name], rows[name])
    assert header["MAGZP"] == 26.1
    assert rows["xpos"].max() < 3072  # the caller's array was not touched


def test_other_tables_with_vectors_text_and_no_rows(tmp_path: Path) -> None:
    dtype = np.dtype([("XWIN_IMAGE", "f8"), ("MAG_APER", "f4", (6,)), ("name", "U5"), ("id", "i8")])
    rows = np.zeros(3, dtype=dtype)
    rows["XWIN_IMAGE"], rows["name"], rows["id"] = [0, 1, 2.5], ["a", "bcdef", ""], [1, 2**62, -5]
    rows["MAG_APER"][1] = np.nan
    tables.write_table(tmp_path / "t.fits", rows, extname="SEX", units={"MAG_APER": "mag"})
    again, _ = tables.read_table(tmp_path / "t.fits", "SEX", verify=True)
    assert again["XWIN_IMAGE"].tolist() == [0, 1, 2.5]
    assert again["id"].tolist() == [1, 2**62, -5]
    assert [str(n) for n in again["name"]] == ["a", "bcdef", ""]
    assert np.isnan(again["MAG_APER"][1]).all() and again["MAG_APER"].shape == (3, 6)
    tables.write_table(tmp_path / "none.fits", rows[:0])
    assert len(tables.read_table(tmp_path / "none.fits")[0]) == 0
    with pytest.raises(UnreadableFile):
        tables.read_table(tmp_path / "t.fits", "OTHER")


def test_atomic_writing_reports_what_is_on_disk(tmp_path: Path) -> None:
    done = write_atomic(tmp_path / "deep" / "er" / "a.bin", b"hello")
    assert done.path.read_bytes() == b"hello"
    assert (done.bytes, done.sha256) == (5, hashlib.sha256(b"hello").hexdigest())
    assert describe(done.path) == done
    write_atomic(done.path, lambda path: path.write_bytes(b"newer"))
    assert done.path.read_bytes() == b"newer"
    assert [p.name for p in done.path.parent.iterdir()] == ["a.bin"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.bin", b"old")

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("killed")

    with pytest.raises(ValueError, match="killed"):
        write_atomic(tmp_path / "a.bin", fail)
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreDown):
        write_atomic(tmp_path / "file" / "below", b"x")
