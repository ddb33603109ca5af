"""Files of streaks: ADES observations by the rules of the format, table, archive of cutouts."""

from __future__ import annotations

import gzip
import io
import tarfile

import numpy as np
import pytest
from astropy.io import fits

from ztfds.difference.streaks import DTYPE
from ztfds.formats import ades, streakfiles
from ztfds.survey import ids
from ztfds.survey.errors import BadData

JD = 2458454.7712345


@pytest.fixture
def table():
    rows = np.zeros(2, DTYPE)
    for k, row in enumerate(rows):
        row["jd"], row["exptime"], row["fid"], row["rcid"], row["strid"] = JD, 30.0, 2, 22, k
        row["pid"] = ids.pid(JD, 22)
        row["streakid"] = row["pid"] * 10_000 + k
        row["x"], row["y"], row["x1"], row["y1"], row["x2"], row["y2"] = 100, 200, 90, 200, 110, 200
        for end in ("", "1", "2"):
            row[f"ra{end}"], row[f"dec{end}"] = 359.9999999 if k else 150.1234567, -1.5
            row[f"ra{end}err"], row[f"dec{end}err"], row[f"corr{end}"] = 0.3, 0.4, 0.5
        row["fitmag"], row["fitmagerr"], row["pa"], row["rate"] = 19.234, 0.07, 33.0, 16.2
    rows["apmag"] = np.nan
    return rows


def test_observations_pass_the_rules_and_come_back(table):
    table["ra"][1] = 12.5
    observations = ades.streak_observations(table, 0.4)
    content = ades.write_psv(observations)
    assert content.startswith(b"# version=2022\n")
    back = ades.read_psv(content)
    assert back == [{k: v for k, v in o.items() if v} for o in observations]
    first = back[0]
    assert first["stn"] == "I41"
    assert first["band"] == "Pr"
    assert first["mag"] == "19.23"
    assert float(first["rmsRA"]) == pytest.approx(0.5, abs=1e-3)
    assert float(first["rmsCorr"]) == pytest.approx(0.5 * 0.3 * 0.4 / (0.5 * np.hypot(0.4, 0.4)), abs=1e-3)
    assert "150.123457 -1.500000" in first["remarks"]
    assert all(not ades.check(o) for o in observations)


def test_time_is_the_middle_of_the_exposure(table):
    middle = ades.streak_observations(table)[0]["obsTime"]
    assert middle == ades.utc(JD + 15 / 86400)
    assert ades.utc(2440587.5) == "1970-01-01T00:00:00.000Z"
    assert ades.utc(2458454.5 + 1.0005 / 86400) == "2018-12-02T00:00:01.001Z"


def test_names_of_tracklets_are_short_and_different():
    names = {
        ades.tracklet_name(ids.pid(JD + k * 0.0005, rcid), strid)
        for k in range(20)
        for rcid in (0, 22, 63)
        for strid in (0, 31)
    }
    assert len(names) == 120
    assert all(len(name) == 8 and name.isalnum() for name in names)
    with pytest.raises(ValueError, match="no tracklet name"):
        ades.tracklet_name(ids.pid(JD, 1), 32)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("trkSub", "ninechars", "trkSub"),
        ("trkSub", "", "missing"),
        ("obsTime", "2018-12-02 00:00:00Z", "obsTime"),
        ("obsTime", "2018-13-02T00:00:00Z", "obsTime"),
        ("ra", "360.000000", "ra"),
        ("ra", "1e2", "ra"),
        ("dec", "-90.1", "dec"),
        ("rmsRA", "0.000", "rmsRA"),
        ("rmsCorr", "1.2", "rmsCorr"),
        ("band", "qq", "band"),
        ("band", "", "belong together"),
        ("mode", "XYZ", "mode"),
        ("astCat", "Hipparchos", "astCat"),
        ("remarks", "a|b", "remarks"),
        ("colour", "red", "unknown column"),
        ("stn", "i41", "stn"),
    ],
)
def test_broken_rules_are_named_and_nothing_is_written(table, column, value, words):
    observation = ades.streak_observations(table)[0] | {column: value}
    assert words in "; ".join(ades.check(observation))
    with pytest.raises(BadData, match=words):
        ades.write_psv([observation])


def test_a_right_ascension_that_rounds_to_a_full_turn(table):
    assert all(not ades.check(o) for o in ades.streak_observations(table))


def test_damaged_files_are_bad_data():
    for content in (b"", b"ra|dec\n1|2\n", b"# version=2022\nra|dec\n1\n", "# version=2022\nra\n\u00e9\n".encode()):
        with pytest.raises(BadData):
            ades.read_psv(content)


def test_text_table_has_the_columns_of_the_survey_first(table):
    content = streakfiles.text_table(table, "a_scimrefdiffimg.fits.fz")
    assert (
        content.decode()
        .splitlines()[0]
        .startswith("jd|fid|pid|diffmaglim|pdiffimfilename|programpi|programid|streakid")
    )
    row = streakfiles.read_text_table(content)[0]
    assert row["pdiffimfilename"] == "a_scimrefdiffimg.fits.fz"
    assert float(row["jd"]) == JD
    assert row["apmag"] == ""
    assert float(row["x"]) == 101.0  # 1-based in files


def test_archive_of_cutouts_is_the_same_every_time(table):
    stamps = tuple(np.full((63, 63), k, np.float32) for k in range(3))
    made = [streakfiles.cutout_archive(table, {0: stamps, 1: stamps}, {"a.psv": b"text"}) for _ in range(2)]
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(made[0]))) as archive:
        names = archive.getnames()
        assert names[-1] == "a.psv"
        member = archive.extractfile(streakfiles.cutout_name(int(table["streakid"][0]), int(table["pid"][0])))
        with fits.open(io.BytesIO(member.read())) as units:
            assert [u.name for u in units[1:]] == list(streakfiles.STAMPS)
            assert units[3].data[0, 0] == 2
            assert units[1].header["X1"] == pytest.approx(90 - (100 - 31) + 1)
