"""Verification of raw files: a good one of each type passes, every kind of bad one is named."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from ztfds.config.detrend import IngestConfig
from ztfds.formats.raw import RawQuadrant, write_raw
from ztfds.ingest.verify import verify
from ztfds.survey import errors, fields, ids
from ztfds.survey.camera import TINY, ZTF

FFD = "20190317307639"
FIELD = 712
CCD = 6
GOOD = f"ztf_{FFD}_{FIELD:06d}_zg_c{CCD:02d}_o.fits.fz"


def good_header():
    centre = fields.get(FIELD)
    return fits.Header(
        {"IMGTYPE": "object", "OBSJD": ids.jd_of_filefracday(FFD) + 1.2 / 86400, "EXPTIME": 30.0, "CCD_ID": CCD,
         "FIELDID": FIELD, "FILTERID": 1, "PROGRMID": 1, "RAD": centre.ra, "DECD": centre.dec, "AIRMASS": 1.2}
    )  # fmt: skip


def quadrants(rng, shape=TINY.quadrant_shape, columns=30, amplifiers=(0, 1, 2, 3)):
    return [
        RawQuadrant(qid, 4 * (CCD - 1) + qid - 1, rng.integers(1000, 1300, shape).astype(np.uint16),
                    rng.integers(995, 1005, (shape[0], columns)).astype(np.uint16), fits.Header({"AMP_ID": amp}))
        for qid, amp in zip((1, 2, 3, 4), amplifiers, strict=True)
    ]  # fmt: skip


@pytest.fixture
def make(tmp_path, rng):
    """Write a raw file under a name, with cards changed or (None) taken away."""

    def write(name=GOOD, shape=TINY.quadrant_shape, amplifiers=(0, 1, 2, 3), columns=30, **cards):
        header = good_header()
        for keyword, value in cards.items():
            if value is None:
                del header[keyword]
            else:
                header[keyword] = value
        path = tmp_path / name
        write_raw(path, header, quadrants(rng, shape, columns, amplifiers))
        return path

    return write


def test_a_good_file_is_returned_with_its_content(make):
    raw = verify(make(), TINY)
    assert raw.name.field == FIELD
    assert raw.header["EXPTIME"] == 30.0
    assert [q.qid for q in raw.quadrants] == [1, 2, 3, 4]
    assert raw.quadrants[2].pixels.shape == TINY.quadrant_shape
    assert raw.checksummed == 9


@pytest.mark.parametrize(
    ("name", "cards"),
    [
        (f"ztf_{FFD}_000000_bi_c06_b.fits.fz", {"IMGTYPE": "bias", "FIELDID": 0, "FILTERID": 0, "EXPTIME": 0.0}),
        (f"ztf_{FFD}_000000_zr_c06_f.fits.fz", {"IMGTYPE": "flat", "FIELDID": 0, "FILTERID": 2, "RAD": None}),
        (f"ztf_{FFD}_000000_dk_c06_d.fits.fz", {"IMGTYPE": "dark", "FIELDID": 0, "FILTERID": 0}),
    ],
)
def test_calibration_frames_pass_without_a_pointing(make, name, cards):
    assert verify(make(name, **cards), TINY).name.is_calibration


def test_names_that_follow_no_rule(tmp_path):
    for name in ("image.fits.fz", GOOD.replace("zg", "zz"), GOOD.replace("c06", "c17"), GOOD.replace("_o", "_x")):
        with pytest.raises(errors.BadName):
            verify(tmp_path / name, TINY)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(errors.FilesMissing):
        verify(tmp_path / GOOD, TINY)


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.3, 0.7, 0.99])
def test_truncated_files(make, fraction):
    path = make()
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(errors.TruncatedFile):
        verify(path, TINY)


def test_files_that_are_not_fits(make, rng):
    path = make()
    path.write_bytes(rng.bytes(path.stat().st_size))
    with pytest.raises(errors.UnreadableFile):
        verify(path, TINY)


def test_a_changed_byte_is_a_checksum_mismatch(make):
    path = make()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(errors.ChecksumMismatch):
        verify(path, TINY)


def test_quadrants_of_another_size(make):
    with pytest.raises(errors.WrongSize, match="264, 250"):
        verify(make(shape=(264, 250)), TINY)
    with pytest.raises(errors.WrongSize):
        verify(make(), ZTF)


@pytest.mark.parametrize("keyword", ["OBSJD", "EXPTIME", "RAD", "FIELDID", "PROGRMID", "CCD_ID", "IMGTYPE", "AIRMASS"])
def test_missing_keywords_are_named(make, keyword):
    with pytest.raises(errors.MissingKeyword, match=keyword):
        verify(make(**{keyword: None}), TINY)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("EXPTIME", -1.0), ("EXPTIME", "thirty"), ("PROGRMID", 9), ("DECD", 123.0), ("OBSJD", True), ("IMGTYPE", " "),
     ("AIRMASS", 0.5)],
)  # fmt: skip
def test_unusable_values_are_named(make, keyword, value):
    with pytest.raises(errors.MissingKeyword, match=keyword):
        verify(make(**{keyword: value}), TINY)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("CCD_ID", 7), ("FIELDID", 713), ("FILTERID", 2), ("IMGTYPE", "flat"), ("OBSJD", 2458560.5)],
)
def test_headers_that_disagree_with_the_name(make, keyword, value):
    with pytest.raises(errors.Mislabelled, match=keyword):
        verify(make(**{keyword: value}), TINY)


def test_swapped_amplifiers_are_mislabelled(make):
    with pytest.raises(errors.Mislabelled, match="AMP_ID of quadrant 2"):
        verify(make(amplifiers=(0, 2, 1, 3)), TINY)


def test_a_ccd_that_the_camera_does_not_have(make):
    with pytest.raises(errors.Mislabelled, match="no CCD 9"):
        verify(make(GOOD.replace("c06", "c09"), CCD_ID=9), TINY)


def test_a_field_off_the_grid(make):
    with pytest.raises(errors.OffGridField, match="9999"):
        verify(make(GOOD.replace("000712", "009999"), FIELDID=9999), TINY)


def test_a_pointing_away_from_the_field(make):
    dec = fields.get(FIELD).dec
    with pytest.raises(errors.Mislabelled, match="nearest is field"):
        verify(make(DECD=dec - 5.0), TINY)
    assert verify(make(DECD=dec - 0.1), TINY)
    with pytest.raises(errors.Mislabelled):
        verify(make(DECD=dec - 0.1), TINY, IngestConfig(pointing_tolerance_deg=0.05))


def test_errors_say_which_exposure_and_are_bad_data(make):
    with pytest.raises(errors.BadData) as caught:
        verify(make(FILTERID=3), TINY)
    assert (caught.value.exposure, caught.value.step, caught.value.retry) == (f"ztf_{FFD}", "ingest", False)


FOREIGN = IngestConfig.foreign()


def test_substitutes_are_accepted_only_where_they_are_wanted(make):
    jd = ids.jd_of_filefracday(FFD)
    path = make(OBSJD=None, OBSMJD=jd - 2400000.5, RAD=None, OBJRAD=fields.get(FIELD).ra, OBJDECD=fields.get(FIELD).dec,
                AIRMASS=None, PROGRMID=None, CCD_ID=None, FIELDID=None, FILTERID=None, EXPTIME=None, IMGTYPE=None)  # fmt: skip
    raw = verify(path, TINY, FOREIGN)
    assert raw.header["OBSJD"] == pytest.approx(jd)
    assert (raw.header["PROGRMID"], raw.header["EXPTIME"], raw.header["CCD_ID"]) == (1, 30.0, CCD)
    assert raw.quadrants[0].header["GAIN"] == 6.2
    with pytest.raises(errors.MissingKeyword, match=r"OBSJD.*RAD"):
        verify(path, TINY)


@pytest.mark.parametrize("keyword", ["OBSJD", "RAD"])
def test_time_and_pointing_have_no_substitute(make, keyword):
    with pytest.raises(errors.MissingKeyword, match=keyword):
        verify(make(**{keyword: None}), TINY, FOREIGN)


@pytest.mark.parametrize(("keyword", "value"), [("CCD_ID", 7), ("FIELDID", 713), ("FILTERID", 2), ("IMGTYPE", "dome")])
def test_a_contradiction_is_mislabelled_whoever_wrote_the_file(make, keyword, value):
    with pytest.raises(errors.Mislabelled, match=keyword):
        verify(make(**{keyword: value}), TINY, FOREIGN)


def test_a_pointing_near_the_field_is_good_enough_for_foreign_files(make):
    dec = fields.get(FIELD).dec
    assert verify(make(DECD=dec - 0.9), TINY, FOREIGN)
    with pytest.raises(errors.Mislabelled, match="nearest is field"):
        verify(make(DECD=dec - 1.1), TINY, FOREIGN)


@pytest.mark.parametrize("amplifiers", [(1, 2, 3, 4), (7, 6, 5, 4), ("h", "g", "f", "e")])
def test_other_numberings_of_amplifiers_say_nothing(make, amplifiers):
    assert verify(make(amplifiers=amplifiers), TINY)


def test_other_numberings_out_of_order_are_mislabelled(make):
    with pytest.raises(errors.Mislabelled, match="AMP_ID of quadrant 1"):
        verify(make(amplifiers=(2, 1, 3, 4)), TINY)
