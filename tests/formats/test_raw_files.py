"""Raw CCD files: round trip, strangers' files, and every way a file can be broken."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from ztfds.formats import raw, structure
from ztfds.formats.raw import RawQuadrant, read_primary_header, read_raw, write_raw
from ztfds.survey import errors
from ztfds.survey.errors import (
    BadName,
    ChecksumMismatch,
    FilesMissing,
    TruncatedFile,
    UnreadableFile,
    WrongSize,
    ZtfdsError,
)

NAME = "ztf_20190317307639_000712_zg_c08_o.fits.fz"
SHAPE = (60, 50)


def quadrants(rng: np.random.Generator, shape: tuple[int, int] = SHAPE, overscan: int = 30) -> list[RawQuadrant]:
    made = []
    for qid in raw.QUADRANTS:
        pixels = rng.integers(900, 1100, shape).astype(np.uint16)
        pixels[0, :3] = 0, 32768, 65535
        strip = rng.integers(990, 1010, (shape[0], overscan)).astype(np.uint16)
        made.append(RawQuadrant(qid, 27 + qid, pixels, strip, fits.Header({"GAIN": 6.2, "AMP_ID": qid - 1})))
    return made


@pytest.fixture
def file(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / NAME
    write_raw(path, fits.Header({"OBSJD": 2458559.807662, "CCD_ID": 8}), quadrants(rng))
    return path


@pytest.mark.parametrize("overscan", [1, 28, 30, 40])
@pytest.mark.parametrize("shape", [SHAPE, (264, 256), (7, 33)])
def test_what_is_written_is_read(
    tmp_path: Path, rng: np.random.Generator, shape: tuple[int, int], overscan: int
) -> None:
    written = quadrants(rng, shape, overscan)
    done = write_raw(tmp_path / NAME, fits.Header({"OBSJD": 2458559.807662, "CCD_ID": 8}), written)
    assert done.bytes == done.path.stat().st_size
    ccd = read_raw(done.path, shape)
    assert ccd.checksummed == 9
    assert ccd.header["OBSJD"] == 2458559.807662
    assert (ccd.name.field, ccd.name.ccdid) == (712, 8)
    for quadrant, was in zip(ccd.quadrants, written, strict=True):
        assert (quadrant.qid, quadrant.rcid) == (was.qid, was.rcid)
        assert quadrant.pixels.dtype == quadrant.overscan.dtype == np.uint16
        assert np.array_equal(quadrant.pixels, was.pixels)
        assert np.array_equal(quadrant.overscan, was.overscan)
        assert quadrant.header["GAIN"] == 6.2
        assert quadrant.header["AMP_ID"] == was.qid - 1


def test_the_layout_is_that_of_the_survey(file: Path) -> None:
    with fits.open(file) as hdus:
        assert len(hdus) == 9
        assert hdus[0].data is None
        assert [hdu.header["EXTNAME"] for hdu in hdus[1:]] == [str(k) for k in range(1, 9)]
        assert all(isinstance(hdu, fits.CompImageHDU) and hdu.compression_type == "RICE_1" for hdu in hdus[1:])


def test_only_the_header_can_be_read(file: Path) -> None:
    assert read_primary_header(file)["CCD_ID"] == 8
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(TruncatedFile):
        read_primary_header(file)


@pytest.mark.parametrize("compression", [None, "RICE_1", "GZIP_1"])
def test_strangers_files_without_checksums_are_read(
    tmp_path: Path, rng: np.random.Generator, compression: str | None
) -> None:
    written = quadrants(rng)
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for image in [q.pixels for q in written] + [q.overscan for q in written]:
        hdus.append(fits.CompImageHDU(image, compression_type=compression) if compression else fits.ImageHDU(image))
    path = tmp_path / (NAME if compression else NAME.removesuffix(".fz"))
    hdus.writeto(path)
    ccd = read_raw(path)
    assert ccd.checksummed == 0
    assert np.array_equal(ccd.quadrants[3].pixels, written[3].pixels)
    assert np.array_equal(ccd.quadrants[0].overscan, written[0].overscan)


def test_every_truncation_is_called_truncation(file: Path) -> None:
    content = file.read_bytes()
    ends = [hdu.end for hdu in structure.walk(content)]
    cuts = {0, 1, 80, 2879, 2880, 2881, *ends[:-1], *(end - 1 for end in ends), *(end + 5 for end in ends[:-1])}
    cuts |= set(range(100, len(content), 4999))
    for cut in sorted(cuts - {len(content)}):
        file.write_bytes(content[:cut])
        with pytest.raises(TruncatedFile):
            read_raw(file)


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda c: b"<html>not found</html>" * 500, UnreadableFile),
        (lambda c: b"\0" * len(c), UnreadableFile),
        (lambda c: c.replace(b"NAXIS1  = ", b"NAXIS1  = 'many' /", 1), UnreadableFile),
        (lambda c: c.replace(b"NAXIS1  = ", b"NOXIS1  = ", 1), UnreadableFile),
        (lambda c: c.replace(b"XTENSION= 'BINTABLE'", b"XTENSION= 'BANTABLE'", 1), ChecksumMismatch),
        (lambda c: c[: len(c) // 2] + bytes([c[len(c) // 2] ^ 1]) + c[len(c) // 2 + 1 :], ChecksumMismatch),
        (
            lambda c: c.replace(b"OBSJD   =       2458559.807662", b"OBSJD   =       2458559.807663", 1),
            ChecksumMismatch,
        ),
        (lambda c: c + b"garbage" * 999, UnreadableFile),
    ],
)
def test_broken_files_are_named_by_what_is_broken(
    file: Path, break_it: Callable[[bytes], bytes], error: type[ZtfdsError]
) -> None:
    broken = break_it(file.read_bytes())
    assert broken != file.read_bytes()
    file.write_bytes(broken)
    with pytest.raises(error):
        read_raw(file)


def test_trailing_zeros_do_no_harm(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0" * 2880)
    assert len(read_raw(file).quadrants) == 4


def test_damage_without_checksums_never_escapes_as_another_error(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / NAME
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for quadrant in quadrants(rng):
        hdus.append(fits.CompImageHDU(quadrant.pixels, compression_type="RICE_1"))
    for quadrant in quadrants(rng):
        hdus.append(fits.CompImageHDU(quadrant.overscan, compression_type="RICE_1"))
    hdus.writeto(path)
    content = path.read_bytes()
    outcomes = []
    for _ in range(60):
        broken = bytearray(content)
        at = int(rng.integers(2880, len(content) - 64))
        broken[at : at + 64] = rng.bytes(64)
        path.write_bytes(broken)
        try:
            outcomes.append(type(read_raw(path)).__name__)
        except (TruncatedFile, UnreadableFile, WrongSize) as error:
            outcomes.append(error.code)
    assert len(outcomes) == 60
    assert "unreadable" in outcomes


def test_sizes_are_checked(file: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(WrongSize, match=r"\(60, 50\), not \(3080, 3072\)"):
        read_raw(file, (3080, 3072))
    odd = quadrants(rng)
    odd[2] = RawQuadrant(3, 30, odd[2].pixels[:, :-1], odd[2].overscan, odd[2].header)
    write_raw(file, fits.Header(), odd)
    with pytest.raises(WrongSize, match="quadrant 3"):
        read_raw(file)
    odd = quadrants(rng)
    odd[3] = RawQuadrant(4, 31, odd[3].pixels, odd[3].overscan[:-2], odd[3].header)
    write_raw(file, fits.Header(), odd)
    with pytest.raises(WrongSize, match="overscan 4"):
        read_raw(file)
    with pytest.raises(WrongSize):
        write_raw(tmp_path / "x.fits.fz", fits.Header(), odd[:3])


def test_floating_point_pixels_are_not_raw(tmp_path: Path) -> None:
    hdus = fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(np.zeros(SHAPE, np.float32)) for _ in range(8))])
    hdus.writeto(tmp_path / NAME)
    with pytest.raises(WrongSize, match="float32"):
        read_raw(tmp_path / NAME)


def test_names_and_absence(tmp_path: Path) -> None:
    with pytest.raises(BadName):
        read_raw(tmp_path / "holiday.fits")
    with pytest.raises(FilesMissing):
        read_raw(tmp_path / NAME)
    with pytest.raises(FilesMissing):
        read_primary_header(tmp_path / NAME)


def test_sealed_files_satisfy_astropy(file: Path, recwarn: pytest.WarningsRecorder) -> None:
    with fits.open(file, checksum=True) as hdus:
        assert all("CHECKSUM" in hdu.header or isinstance(hdu, fits.CompImageHDU) for hdu in hdus)
        _ = [hdu.data for hdu in hdus]
    with fits.open(file, checksum=True, disable_image_compression=True) as hdus:
        assert all(hdu.verify_checksum() == 1 and hdu.verify_datasum() == 1 for hdu in hdus)
    assert not [w for w in recwarn if "hecksum" in str(w.message)]


@pytest.mark.parametrize("total", [0, 1, 0xFFFFFFFE, 0x3A3B3C3D, 0xC0FFEE00, 868229149])
def test_encoded_checksums_cancel_the_sum(total: int) -> None:
    text = structure.encode_checksum(total)
    assert len(text) == 16 and text.isalnum()
    zeros = structure.ones_complement_sum(b"0" * 16)
    placed = structure.ones_complement_sum(text[1:] + text[:1])  # the value begins one byte before a word
    assert (total + placed - zeros) % 0xFFFFFFFF == 0


def test_sums_agree_with_astropy(rng: np.random.Generator, tmp_path: Path) -> None:
    for size in (1, 100, 2880):
        hdu = fits.PrimaryHDU(rng.integers(0, 2**31 - 1, (size, 7)).astype(np.int32))
        hdu.writeto(tmp_path / "a.fits", checksum=True, overwrite=True)
        content = (tmp_path / "a.fits").read_bytes()
        hdus = structure.walk(content)
        data = structure.ones_complement_sum(content[hdus[0].data_start : hdus[0].end])
        assert str(data) == hdus[0].header["DATASUM"]
        assert structure.verify_checksums(content, hdus) == 1


@pytest.mark.slow
def test_full_size_round_trip(tmp_path: Path, rng: np.random.Generator) -> None:
    written = quadrants(rng, (3080, 3072))
    write_raw(tmp_path / NAME, fits.Header(), written)
    ccd = read_raw(tmp_path / NAME, (3080, 3072))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(ccd.quadrants, written, strict=True))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_disk_that_refuses_says_nothing_about_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def refuse(self: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(errors.StoreDown) as caught:
        raw.read_content(path)
    assert caught.value.retry and not isinstance(caught.value, errors.BadData)


def test_the_size_of_a_quadrant_by_its_header_alone(tmp_path: Path) -> None:
    for name, hdu in (("plain", fits.ImageHDU), ("rice", fits.CompImageHDU)):
        fits.HDUList([fits.PrimaryHDU(), hdu(np.zeros((40, 30), np.uint16))]).writeto(tmp_path / name)
        assert raw.peek_shape(tmp_path / name) == (40, 30)
    fits.PrimaryHDU().writeto(tmp_path / "empty")
    (tmp_path / "text").write_text("no FITS")
    assert [raw.peek_shape(tmp_path / name) for name in ("empty", "text", "absent")] == [None] * 3
