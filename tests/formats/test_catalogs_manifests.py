"""Static catalogs and manifests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.time import Time

from ztfds.formats.catalogs import GAIA_DTYPE, PS1_DTYPE, StaticCatalogs, move_to_epoch
from ztfds.formats.manifests import ManifestFile, make_manifest, read_manifest, write_manifest
from ztfds.survey import errors
from ztfds.survey.errors import BadCatalog, FilesMissing, MissingCatalog, MissingKeyword, TruncatedFile, UnreadableFile
from ztfds.survey.fields import separation_deg


def stars(rng: np.random.Generator, ra0: float, dec0: float, n: int = 2000) -> dict[str, np.ndarray]:
    return {
        "source_id": np.arange(n, dtype=np.int64) + 10**17,
        "ra": (ra0 + rng.uniform(-1, 1, n) / np.cos(np.radians(min(abs(dec0), 89)))) % 360,
        "dec": np.clip(dec0 + rng.uniform(-1, 1, n), -90, 90),
        "gmag": rng.uniform(12, 20, n),
    }


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.99, 45.0), (123.0, -29.0), (40.0, 89.6)])
def test_cones_hold_exactly_the_stars_inside(tmp_path: Path, rng: np.random.Generator, ra: float, dec: float) -> None:
    columns = stars(rng, ra, dec)
    pq.write_table(pa.table(columns), tmp_path / "gaia.parquet")
    found = StaticCatalogs(tmp_path).gaia(ra, dec, 0.5)
    assert found.dtype == GAIA_DTYPE
    inside = [separation_deg(ra, dec, a, d) <= 0.5 for a, d in zip(columns["ra"], columns["dec"], strict=True)]
    assert set(found["source_id"]) == set(columns["source_id"][inside])
    distances = [separation_deg(ra, dec, a, d) for a, d in zip(found["ra"], found["dec"], strict=True)]
    assert np.diff(distances).min() > -1e-9
    assert found["pmra"].tolist() == [0.0] * len(found) and (found["ref_epoch"] == 2015.5).all()


def test_many_files_of_both_kinds_with_other_column_names(tmp_path: Path, rng: np.random.Generator) -> None:
    one, two = stars(rng, 10, 5), stars(rng, 10, 7)
    pq.write_table(pa.table(one), tmp_path / "gaia_tile1.parquet")
    renamed = {
        "ID": two["source_id"] + 5000,
        "RAJ2000": two["ra"],
        "DEJ2000": two["dec"],
        "phot_g_mean_mag": two["gmag"],
    }
    Table(renamed).write(tmp_path / "gaia_tile2.fits")
    found = StaticCatalogs(tmp_path).gaia(10, 6, 0.4)
    assert (found["source_id"] < 10**17 + 2000).any() and (found["source_id"] >= 10**17 + 5000).any()
    assert len(StaticCatalogs(tmp_path).gaia(200, -20, 0.4)) == 0


def test_a_file_elsewhere_on_the_sky_is_not_opened(tmp_path: Path, rng: np.random.Generator) -> None:
    pq.write_table(pa.table(stars(rng, 10, 5)), tmp_path / "gaia_1.parquet")
    far = stars(rng, 10, 60)
    del far["gmag"]  # opening it would raise
    pq.write_table(pa.table(far), tmp_path / "gaia_2.parquet")
    assert len(StaticCatalogs(tmp_path).gaia(10, 5, 0.4))
    with pytest.raises(BadCatalog, match="no column gmag"):
        StaticCatalogs(tmp_path).gaia(10, 60, 0.4)


def test_proper_motions_move_stars(tmp_path: Path) -> None:
    # Barnard's star: pmra -801.6, pmdec 10362.4 mas/yr.
    row = {"source_id": [1], "ra": [269.45], "dec": [4.70], "gmag": [8.2], "pmra": [-801.6], "pmdec": [10362.4]}
    pq.write_table(pa.table(row), tmp_path / "gaia.parquet")
    catalogs = StaticCatalogs(tmp_path)
    jd = 2451545.0 + 25.5 * 365.25  # J2025.5: ten years after 2015.5
    still, moved = catalogs.gaia(269.45, 4.7, 0.1)[0], catalogs.gaia(269.45, 4.7, 0.1, epoch_jd=jd)[0]
    assert (moved["dec"] - still["dec"]) * 3600 == pytest.approx(103.624, abs=1e-3)
    assert (moved["ra"] - still["ra"]) * 3600 * np.cos(np.radians(4.7)) == pytest.approx(-8.016, abs=1e-3)
    assert moved["ref_epoch"] == pytest.approx(2025.5)
    assert still["dec"] == 4.70


def test_linear_motion_is_rigorous_motion_within_a_milliarcsecond(rng: np.random.Generator) -> None:
    """Ten years of up to 300 mas/yr, declinations up to 80 deg, against astropy's motion along great circles."""
    rows = np.zeros(200, GAIA_DTYPE)
    rows["ra"], rows["dec"] = rng.uniform(0, 360, 200), rng.uniform(-30, 80, 200)
    rows["pmra"], rows["pmdec"] = rng.uniform(-300, 300, (2, 200))
    rows["ref_epoch"] = 2016.0
    moved = move_to_epoch(rows, Time(2026.0, format="jyear", scale="tcb").jd)
    true = SkyCoord(
        rows["ra"] * u.deg, rows["dec"] * u.deg, pm_ra_cosdec=rows["pmra"] * u.mas / u.yr, pm_dec=rows["pmdec"] * u.mas / u.yr,
        distance=1 * u.kpc, radial_velocity=0 * u.km / u.s, obstime=Time(2016.0, format="jyear", scale="tcb"),
    ).apply_space_motion(Time(2026.0, format="jyear", scale="tcb"))  # fmt: skip
    off = SkyCoord(moved["ra"] * u.deg, moved["dec"] * u.deg).separation(SkyCoord(true.ra, true.dec))
    assert off.to_value(u.mas).max() < 1.0


def test_ps1_fills_what_is_not_there(tmp_path: Path) -> None:
    table = {
        "objID": [7, 8],
        "raMean": [10.0, 10.1],
        "decMean": [5.0, 5.0],
        "gMeanPSFMag": [-999.0, 18.0],
        "r": [17.0, 17.5],
    }
    pq.write_table(pa.table(table), tmp_path / "ps1_x.parquet")
    found = StaticCatalogs(tmp_path).ps1(10.0, 5.0, 1.0)
    assert found.dtype == PS1_DTYPE
    assert found["objid"].tolist() == [7, 8]
    assert np.isnan(found["g"][0]) and found["g"][1] == 18.0
    assert found["r"].tolist() == [17.0, 17.5]
    assert np.isnan(found["i"]).all()
    assert found["sgscore"].tolist() == [0.5, 0.5]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "gaia.parquet"
    pq.write_table(pa.table({"source_id": [1], "ra": [10.0], "dec": [5.0], "gmag": [15.0]}), path)
    assert len(StaticCatalogs(tmp_path).gaia(10, 5, 0.1)) == 1
    pq.write_table(pa.table({"source_id": [1, 2], "ra": [10.0, 10.01], "dec": [5.0, 5.0], "gmag": [15.0, 16.0]}), path)
    assert len(StaticCatalogs(tmp_path).gaia(10, 5, 0.1)) == 2


def test_absent_and_broken_catalogs(tmp_path: Path) -> None:
    with pytest.raises(MissingCatalog, match="gaia"):
        StaticCatalogs(tmp_path).gaia(10, 5, 0.1)
    assert MissingCatalog.retry and not issubclass(MissingCatalog, errors.BadData)
    (tmp_path / "gaia.parquet").write_bytes(b"not a table")
    with pytest.raises(BadCatalog, match="parquet table"):
        StaticCatalogs(tmp_path).gaia(10, 5, 0.1)
    (tmp_path / "gaia.parquet").rename(tmp_path / "gaia.fits")
    with pytest.raises(BadCatalog, match="FITS table"):
        StaticCatalogs(tmp_path).gaia(10, 5, 0.1)
    assert not issubclass(BadCatalog, errors.BadData)


@pytest.mark.parametrize("suffix", ["parquet", "fits"])
def test_values_that_are_not_there_become_defaults_and_rows_without_a_position_go(tmp_path: Path, suffix: str) -> None:
    nan = float("nan")
    table = {
        "source_id": [1, 2, 3, 4],
        "ra": [10.0, nan, 10.01, -349.99],
        "dec": [5.0, 5.0, nan, 5.01],
        "phot_g_mean_mag": [15.0, 15.0, 15.0, 16.0],
        "pmra": [nan, 1.0, 1.0, 3.0],
        "pmdec": [nan, 1.0, 1.0, -4.0],
        "ra_error": [nan, 1.0, 1.0, 0.2],
        "dec_error": [nan, 1.0, 1.0, 0.3],
        "ref_epoch": [nan, 2016.0, 2016.0, 2016.0],
    }
    ps1 = {"objID": [1, 2], "ra": [10.0, 10.01], "dec": [5.0, 5.0], "g": [17.0, nan], "gmagerr": [-999.0, nan]}
    for kind, columns in (("Gaia_dr3", table), ("ps1", {**ps1, "sgscore": [nan, 1.0]})):
        if suffix == "parquet":
            pq.write_table(pa.table(columns), tmp_path / f"{kind}.parquet")
        else:
            Table(columns).write(tmp_path / f"{kind}.fits")
    found = StaticCatalogs(tmp_path).gaia(10.0, 5.0, 0.1, epoch_jd=2458200.5)
    assert found["source_id"].tolist() == [1, 4]
    assert found["pmra"].tolist() == [0.0, 3.0] and found["pmdec"].tolist() == [0.0, -4.0]
    assert found["ra_error"].tolist() == pytest.approx([1.0, 0.2]) and np.isfinite(found["ref_epoch"]).all()
    assert (found["ra"][0], found["dec"][0]) == (10.0, 5.0)
    stars = StaticCatalogs(tmp_path).ps1(10.0, 5.0, 0.1)
    assert stars["g_err"].tolist() == pytest.approx([0.02, 0.02]) and stars["sgscore"].tolist() == [0.5, 1.0]
    assert np.isnan(stars["g"][1])
    assert StaticCatalogs(tmp_path).check() == {"gaia": 2, "ps1": 2}


def test_nulls_of_parquet_are_missing_values(tmp_path: Path) -> None:
    table = pa.table(
        {"source_id": [1, 2], "ra": [10.0, 10.0], "dec": [5.0, None], "gmag": [15.0, 15.0], "pmra": [None, 1]}
    )
    pq.write_table(table, tmp_path / "gaia.parquet")
    found = StaticCatalogs(tmp_path).gaia(10.0, 5.0, 0.1)
    assert found["source_id"].tolist() == [1] and found["pmra"].tolist() == [0.0]


def test_a_check_names_what_is_wrong(tmp_path: Path) -> None:
    pq.write_table(pa.table({"source_id": [1], "ra": [10.0], "dec": [5.0], "gmag": [15.0]}), tmp_path / "gaia.parquet")
    with pytest.raises(MissingCatalog, match="ps1"):
        StaticCatalogs(tmp_path).check()
    pq.write_table(pa.table({"objid": ["a"], "ra": [10.0], "dec": [5.0]}), tmp_path / "ps1.parquet")
    with pytest.raises(BadCatalog, match=r"ps1.parquet: the column objid does not hold numbers"):
        StaticCatalogs(tmp_path).check()


def manifest_files(n: int = 3) -> list[ManifestFile]:
    return [ManifestFile(f"ztf_2019031730763{k}_000712_zg_c08_o.fits.fz", 1000 + k, f"{k:064x}") for k in range(n)]


def test_manifests_come_back(tmp_path: Path) -> None:
    manifest = make_manifest("20190317", "night", "tiny", "2019-03-17T13:00:00Z", manifest_files())
    done = write_manifest(tmp_path, manifest)
    assert done.path.name == "ztf_20190317_manifest.json"
    assert read_manifest(done.path) == manifest
    assert manifest.nid == 805
    content = json.loads(done.path.read_text())
    assert set(content) == {"night", "nid", "part", "camera", "created", "files"}
    assert set(content["files"][0]) == {"name", "bytes", "sha256"}


def test_broken_manifests_are_named(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, make_manifest("20190317", "night", "tiny", "", manifest_files())).path
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(TruncatedFile):
        read_manifest(path)
    path.write_text("{,")
    with pytest.raises(UnreadableFile):
        read_manifest(path)
    path.write_text("[1, 2]")
    with pytest.raises(UnreadableFile):
        read_manifest(path)
    path.write_text(text.replace('"camera"', '"camara"'))
    with pytest.raises(MissingKeyword, match="camera"):
        read_manifest(path)
    path.write_text(text.replace("805", "806"))
    with pytest.raises(UnreadableFile, match="contradicts"):
        read_manifest(path)
    with pytest.raises(FilesMissing):
        read_manifest(tmp_path / "none.json")
