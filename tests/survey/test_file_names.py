"""File names and places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztfds.survey import names
from ztfds.survey.errors import BadName
from ztfds.survey.names import RawName

REAL = "ztf_20190317307639_000712_zg_c08_o.fits.fz"


def test_real_name_is_read_and_written() -> None:
    name = RawName.parse(REAL)
    assert name == RawName("20190317307639", 712, "zg", 8, "o")
    assert name.filename == REAL
    assert name.exposure == "ztf_20190317307639"
    assert (name.date, name.nid, name.fid, name.is_calibration) == ("20190317", 805, 1, False)


def test_unpacked_name_is_read_too() -> None:
    assert RawName.parse(REAL.removesuffix(".fz")) == RawName.parse(REAL)


@given(
    st.integers(0, 999_999),
    st.integers(1, 16),
    st.sampled_from([("zg", "o"), ("zr", "f"), ("zi", "o"), ("bi", "b"), ("00", "b"), ("OO", "b"), ("dk", "d")]),
)
def test_names_come_back(field: int, ccdid: int, kind: tuple[str, str]) -> None:
    name = RawName("20200229123456", field, kind[0], ccdid, kind[1])
    assert RawName.parse(name.filename) == name


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "readme.txt",
        "ztf_2019031730763_000712_zg_c08_o.fits.fz",
        "ztf_20191317307639_000712_zg_c08_o.fits.fz",
        "ztf_20190230307639_000712_zg_c08_o.fits.fz",
        "ztf_20190317307639_000712_zy_c08_o.fits.fz",
        "ztf_20190317307639_000712_zg_c17_o.fits.fz",
        "ztf_20190317307639_000712_zg_c00_o.fits.fz",
        "ztf_20190317307639_000712_zg_c08_x.fits.fz",
        "ztf_20190317307639_000712_zg_c08_b.fits.fz",
        "ztf_20190317307639_000712_bi_c08_o.fits.fz",
        "ztf_20190317307639_000712_zg_c08_o.fits.fz.part",
        "ztf_20190317307639_000712_zg_c08_o.fits.fz\n",
        "../ztf_20190317307639_000712_zg_c08_o.fits.fz",
        "ztf_20190317307639_000712_zg_c08_o_q1.fits.fz",
    ],
)
def test_other_names_are_refused_with_the_name(wrong: str) -> None:
    with pytest.raises(BadName) as caught:
        RawName.parse(wrong)
    assert wrong.strip() in str(caught.value).replace("\\n", "")


def test_places_follow_the_archive_tree() -> None:
    name = RawName.parse(REAL)
    assert names.raw_path(name) == f"raw/2019/0317/307639/{REAL}"
    assert names.sci_path(name, 3, "sciimg.fits") == (
        "sci/2019/0317/307639/ztf_20190317307639_000712_zg_c08_o_q3_sciimg.fits"
    )
    assert names.cal_path("20190316", "bias", "bi", 8, 3, "bias.fits") == (
        "cal/2019/0316/bias/00/ccd08/q3/ztf_20190316_00_c08_q3_bias.fits"
    )
    assert names.cal_path("20190316", "hifreqflat", "zg", 8, 3, "hifreqflatunc.fits") == (
        "cal/2019/0316/hifreqflat/zg/ccd08/q3/ztf_20190316_zg_c08_q3_hifreqflatunc.fits"
    )
    assert names.ref_path(712, "zg", 8, 3, "refimg.fits") == (
        "ref/000/field000712/zg/ccd08/q3/ztf_000712_zg_c08_q3_refimg.fits"
    )
    assert names.ref_path(1712, "zg", 8, 3, "refimg.fits").startswith("ref/001/field001712/")
    assert names.alert_path("20190317", 42) == "alerts/20190317/42.avro"
    assert names.topic_name("20190317", 1) == "ztf_20190317_programid1"


def test_versions_of_a_product_have_one_name_in_different_places() -> None:
    name = RawName.parse(REAL)
    paths = [names.sci_path(name, 3, "sciimg.fits", version) for version in (1, 2, 3)]
    assert len(set(paths)) == 3
    assert len({path.rsplit("/", 1)[1] for path in paths}) == 1


def test_two_bad_files_of_one_name_are_both_kept() -> None:
    assert names.quarantine_path("x.fits", "20190317", "a" * 64) != names.quarantine_path(
        "x.fits", "20190317", "b" * 64
    )


def test_product_names_come_apart() -> None:
    name = RawName.parse(REAL)
    made = names.product_filename(name, 3, "scimrefdiffimg.fits.fz")
    assert made == "ztf_20190317307639_000712_zg_c08_o_q3_scimrefdiffimg.fits.fz"
    assert names.split_product_filename(made) == (name, 3, "scimrefdiffimg.fits.fz")
    with pytest.raises(BadName):
        names.split_product_filename(REAL)


def test_manifest_names() -> None:
    assert names.manifest_filename("20190317") == "ztf_20190317_manifest.json"
    assert names.manifest_filename("20190317", "calibration") == "ztf_20190317_calmanifest.json"
    for part in ("night", "calibration"):
        assert names.parse_manifest_filename(names.manifest_filename("20190317", part)) == ("20190317", part)
    for wrong in ("ztf_20191317_manifest.json", "ztf_20190317_manifest.json.part", "manifest.json"):
        with pytest.raises(BadName):
            names.parse_manifest_filename(wrong)
    with pytest.raises(BadName):
        names.manifest_filename("20190317", "morning")
