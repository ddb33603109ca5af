"""Nights on disk: raw files, headers, catalogs, truth, manifests, cadence and faults."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from ztfds.formats.catalogs import StaticCatalogs
from ztfds.formats.manifests import read_manifest
from ztfds.formats.raw import REQUIRED_KEYWORDS, read_primary_header, read_raw
from ztfds.simulator import faults, night
from ztfds.simulator.exposure import render
from ztfds.simulator.schedule import Plan, make_plan
from ztfds.simulator.truth import read_truth, truth_filename
from ztfds.survey import errors, fields
from ztfds.survey.camera import TINY
from ztfds.survey.names import RawName

# Cards that only the data system or the analysis of the example image adds.
PROCESSING = {
    "SIMPLE",
    "BITPIX",
    "NAXIS",
    "NAXIS1",
    "NAXIS2",
    "EXTNAME",
    "AMP_ID",
    "AMP_NAME",
    "GAIN",
    "READNOI",
    "DARKCUR",
    "END",
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    """One night without references."""
    return make_plan(TINY, "20240311", seed=4, n_exposures=4, n_reference=0, n_bias=2, n_flat=1)


@pytest.fixture(scope="module")
def sent(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, night.Sent]:
    """The night as the mountain sends it."""
    root = tmp_path_factory.mktemp("night")
    done = night.simulate(root / "inbox", root / "catalogs", root / "truth", plan, 0, accelerate=math.inf)
    return root, done


def test_every_exposure_and_ccd_arrives_and_can_be_read(plan: Plan, sent: tuple[Path, night.Sent]) -> None:
    root, done = sent
    assert done.exposures == len(plan.exposures) == 8 and done.files == 16
    for exposure in plan.exposures:
        for ccdid in TINY.ccdids:
            raw = read_raw(root / "inbox" / exposure.raw_name(ccdid).filename, TINY.quadrant_shape)
            assert raw.checksummed == 9
            for quadrant in raw.quadrants:
                assert quadrant.overscan.shape == (264, 30)
                assert quadrant.header["AMP_ID"] == quadrant.qid - 1 and quadrant.header["GAIN"] == 6.2
    assert not list((root / "inbox").glob("*.part")) and not (root / "inbox.staging").exists()


def test_file_holds_what_was_rendered(plan: Plan, sent: tuple[Path, night.Sent]) -> None:
    exposure = plan.science()[1]
    raw = read_raw(sent[0] / "inbox" / exposure.raw_name(7).filename)
    made = render(plan, exposure, 26)
    assert np.array_equal(raw.quadrants[2].pixels, made.pixels)
    assert np.array_equal(raw.quadrants[2].overscan, made.overscan)


def test_headers_say_where_when_and_what(plan: Plan, sent: tuple[Path, night.Sent]) -> None:
    for exposure in plan.exposures:
        path = sent[0] / "inbox" / exposure.raw_name(6).filename
        header = read_primary_header(path)
        assert all(key in header for key in REQUIRED_KEYWORDS[exposure.kind])
        name = RawName.parse(path.name)
        assert (header["CCD_ID"], header["FIELDID"], header["FILTERID"]) == (6, name.field, name.fid)
        assert header["OBSJD"] == pytest.approx(exposure.jd, abs=1e-8)
        assert header["OBSMJD"] + 2400000.5 == pytest.approx(header["OBSJD"], abs=1e-6)
        assert abs(header["HJD"] - header["OBSJD"]) < 0.0059
        if exposure.kind == "o":
            fields.check_pointing(exposure.fieldid, header["TELRAD"], header["TELDECD"])
            assert header["EXPTIME"] == 30.0 and header["PROGRMID"] == exposure.programid
            assert header["SHUTOPEN"][:10] == "2024-03-11" and header["SHUTCLSD"] > header["SHUTOPEN"]
        if exposure.kind == "f":
            assert header["ILUM_LED"] in (2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13)


@pytest.mark.realdata
def test_no_keyword_of_the_real_camera_is_absent(real_data: Path, plan: Plan, sent: tuple[Path, night.Sent]) -> None:
    text = next((real_data / "header").glob("*.header.txt")).read_text()
    keys = []
    for line in text.splitlines():
        key = line[:8].strip()
        if key == "FGROUPNO":
            break
        keys.append(key)
    wanted = [key for key in keys if key and key not in PROCESSING]
    header = read_primary_header(sent[0] / "inbox" / plan.science()[0].raw_name(6).filename)
    assert len(wanted) > 90
    assert [key for key in wanted if key not in header] == []
    ours = [key for key in header if key in wanted]
    assert [key for key in ours if key not in ("CCD_ID", "CCDNAME", "HDUVERS")] == [
        key for key in wanted if key not in ("CCD_ID", "CCDNAME", "HDUVERS")
    ]


def test_truth_table_matches_the_file(plan: Plan, sent: tuple[Path, night.Sent]) -> None:
    exposure = plan.science()[0]
    rows, facts = read_truth(sent[0] / "truth" / truth_filename(exposure.raw_name(6).filename))
    assert set(rows["rcid"]) == {20, 21, 22, 23} and {"star", "galaxy", "transient"} <= set(rows["kind"])
    assert facts["exposure"]["fieldid"] == exposure.fieldid and len(facts["quadrants"]) == 4
    header = fits.Header(facts["quadrants"][1]["wcs"])
    from astropy.wcs import WCS

    stars = rows[(rows["rcid"] == 21) & (rows["kind"] == "star")]
    x, y = WCS(header).all_world2pix(stars["ra"], stars["dec"], 0, tolerance=1e-7)
    assert np.max(np.hypot(x - stars["x"], y - stars["y"])) < 1e-3
    assert 1.8 < facts["quadrants"][0]["fwhm_px"] < 3.2
    raw = read_raw(sent[0] / "inbox" / exposure.raw_name(6).filename)
    good = stars[(stars["snr"] > 30) & (stars["x"] > 3) & (stars["x"] < 252) & (stars["y"] > 3) & (stars["y"] < 260)]
    peak = raw.quadrants[1].pixels[np.rint(good["y"]).astype(int), np.rint(good["x"]).astype(int)]
    assert np.all(peak > np.median(raw.quadrants[1].pixels) + 20)


def test_catalogs_hold_the_stars_with_their_errors(plan: Plan, sent: tuple[Path, night.Sent]) -> None:
    rows, _ = read_truth(sent[0] / "truth" / truth_filename(plan.science()[0].raw_name(6).filename))
    stars = rows[(rows["kind"] == "star") & (rows["snr"] > 20)]
    catalogs = StaticCatalogs(sent[0] / "catalogs")
    ra, dec = float(np.mean(stars["ra"])), float(np.mean(stars["dec"]))
    gaia = catalogs.gaia(ra, dec, 0.2, epoch_jd=plan.science()[0].jd)
    by_id = {int(row["source_id"]): row for row in gaia}
    known = [(s, by_id[int(s["id"])]) for s in stars if int(s["id"]) in by_id]
    assert len(known) > 0.9 * stars.size
    offsets = np.array([(g["dec"] - s["dec"]) * 3.6e6 for s, g in known])
    assert np.median(np.abs(offsets)) < 5.0, "mas, after proper motion"
    ps1 = {int(row["objid"]): row for row in catalogs.ps1(ra, dec, 0.2)}
    matched = [(s, ps1[int(s["id"])]) for s in stars if int(s["id"]) in ps1]
    band = "g" if plan.science()[0].fid == 1 else "r"
    difference = np.array([p[band] - s["mag"] for s, p in matched])
    assert abs(np.median(difference)) < 0.01 and 0.003 < np.std(difference) < 0.1
    assert np.mean([p["sgscore"] for _, p in matched]) > 0.85


def test_manifests_list_what_was_sent(plan: Plan, sent: tuple[Path, night.Sent]) -> None:
    root, done = sent
    calibration = read_manifest(root / "inbox" / "ztf_20240311_calmanifest.json")
    science = read_manifest(root / "inbox" / "ztf_20240311_manifest.json")
    assert (calibration.part, science.part) == ("calibration", "night")
    assert (len(calibration.files), len(science.files)) == (8, 8)
    assert calibration.files + science.files == done.manifest
    for entry in done.manifest:
        assert faults.listed(root / "inbox" / entry.name) == entry


def stage(folder: Path, plan: Plan, index: int = -1) -> Path:
    """Render one CCD file into a folder."""
    return night.render_ccd(folder, plan, plan.exposures[index].index, 6)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("truncated", errors.TruncatedFile),
        ("empty", errors.TruncatedFile),
        ("unreadable", errors.UnreadableFile),
        ("bad_checksum", errors.ChecksumMismatch),
        ("wrong_size", errors.WrongSize),
    ],
)
def test_spoilt_files_cannot_be_read(name: str, error: type[Exception], plan: Plan, tmp_path: Path) -> None:
    delivery = faults.FAULTS[name](stage(tmp_path, plan))
    assert delivery.path is not None
    with pytest.raises(error):
        read_raw(delivery.path, TINY.quadrant_shape)


def test_damage_on_the_way_is_seen_against_the_manifest(plan: Plan, tmp_path: Path) -> None:
    for name in ("truncated", "flipped_bits", "bad_checksum", "unreadable"):
        path = stage(tmp_path / name, plan)
        good = faults.listed(path)
        delivery = faults.FAULTS[name](path)
        assert delivery.manifest == good and faults.listed(path).sha256 != good.sha256


def test_faults_of_the_observing_system_leave_whole_files(plan: Plan, tmp_path: Path) -> None:
    for name, key, value in (
        ("missing_keyword", "OBSJD", None),
        ("wrong_program", "PROGRMID", 9),
        ("offgrid", "FIELDID", 9999),
    ):
        delivery = faults.FAULTS[name](stage(tmp_path / name, plan))
        assert delivery.path is not None
        raw = read_raw(delivery.path, TINY.quadrant_shape)
        assert raw.checksummed == 9 and read_primary_header(delivery.path).get(key) == value
        assert delivery.manifest == faults.listed(delivery.path)
    labelled = faults.FAULTS["mislabelled"](stage(tmp_path / "m", plan)).path
    assert labelled is not None
    assert RawName.parse(labelled.name).ccdid == 7 and read_primary_header(labelled)["CCD_ID"] == 6
    pointing = faults.FAULTS["wrong_pointing"](stage(tmp_path / "p", plan)).path
    assert pointing is not None
    header = read_primary_header(pointing)
    with pytest.raises(errors.Mislabelled):
        fields.check_pointing(header["FIELDID"], header["RAD"], header["DECD"])
    named = faults.FAULTS["bad_name"](stage(tmp_path / "n", plan)).path
    assert named is not None
    with pytest.raises(errors.BadName):
        RawName.parse(named.name)


def test_missing_late_repeated_and_conflicting_files(plan: Plan, tmp_path: Path) -> None:
    first = plan.science()[0].index
    wanted = [f"missing@{first}:6", f"late@{first + 1}:6", f"duplicate@{first + 2}:7", f"conflicting@{first + 3}:7"]
    order: list[str] = []
    done = night.simulate(
        tmp_path / "inbox",
        None,
        None,
        plan,
        0,
        accelerate=math.inf,
        faults=wanted,
        parts=(night.NIGHT,),
        patience_s=0.0,
        progress=lambda d, t, what: order.append(f"{what} {d}/{t}"),
    )
    assert order[-1] == "night 4/4"
    assert done.files == 8 - 1 + 2, "one never came, two came twice"
    assert len(done.manifest) == 8
    absent = plan.exposures[first].raw_name(6).filename
    assert absent in {f.name for f in done.manifest} and not (tmp_path / "inbox" / absent).exists()
    by_name = {f.name: f for f in done.manifest}
    same, other = (plan.exposures[first + k].raw_name(7).filename for k in (2, 3))
    assert faults.listed(tmp_path / "inbox" / same) == by_name[same]
    assert faults.listed(tmp_path / "inbox" / other).sha256 != by_name[other].sha256


def test_accelerated_cadence_keeps_the_order_and_the_late_file_comes_last(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[str] = []
    move = night._move
    monkeypatch.setattr(night, "_move", lambda path, inbox: (arrived.append(path.name), move(path, inbox))[1])
    first = plan.science()[0].index
    night.simulate(
        tmp_path / "inbox",
        None,
        None,
        plan,
        0,
        cadence_s=10.0,
        accelerate=2000.0,
        faults=[f"late@{first}:6"],
        parts=(night.NIGHT,),
        prepare_first=True,
    )
    expected = [plan.exposures[first + k].raw_name(c).filename for k in range(4) for c in (6, 7)]
    assert arrived == expected[1:] + expected[:1]


def test_clouded_exposure_has_hardly_any_stars(plan: Plan, tmp_path: Path) -> None:
    index = plan.science()[0].index
    night.write_exposure(
        tmp_path / "inbox",
        plan,
        index,
        truth=tmp_path / "truth",
        ccdids=(6,),
        faults=[faults.Fault.parse(f"clouded@{index}")],
    )
    rows, facts = read_truth(next((tmp_path / "truth").glob("*.parquet")))
    assert facts["conditions"]["cloud_mag"] > 5.9 and np.sum(rows["kind"] == "star") < 60


def test_unknown_fault_is_refused() -> None:
    for text in ("eaten@3", "truncated", "truncated@x", "late@3:a"):
        with pytest.raises(errors.ConfigurationError, match="known"):
            faults.Fault.parse(text)
    assert faults.Fault.parse("late@3:7").hits(3, 7) and not faults.Fault.parse("late@3:7").hits(3, 6)
    assert faults.Fault.parse("late@3").hits(3, 6)


def test_telemetry_is_sent_beside_the_exposures_and_listed_in_the_manifest(plan: Plan, tmp_path: Path) -> None:
    from ztfds.formats.telemetry import read_telemetry

    done = night.simulate(
        tmp_path / "inbox", None, None, plan, 0, accelerate=math.inf, parts=(night.NIGHT,), telemetry=True
    )
    sheets = sorted((tmp_path / "inbox").glob("*_telemetry.ecsv"))
    assert sheets and {path.name for path in sheets} < {entry.name for entry in done.manifest}
    assert done.files == len(done.manifest) == 8 + len(sheets)
    assert all(read_telemetry(path) for path in sheets)
