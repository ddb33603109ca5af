"""Coverage maps: cells, visits and depth against plain geometry; the sum of all nights; nothing twice."""

import json

import numpy as np
import pytest
from astropy import units
from astropy_healpix import core
from test_pages import text_of

from ztfds.formats import moc
from ztfds.operations.context import Context
from ztfds.operations.day import coverage
from ztfds.operations.day.nights import wanted_night
from ztfds.operations.pages.coverage import coverage_page, coverage_picture
from ztfds.registry import database as db
from ztfds.registry import sky
from ztfds.survey import ids
from ztfds.survey.camera import ZTF, ccd_qid
from ztfds.survey.errors import BadName, ChecksumMismatch, FilesMissing, NoWork

NID = 800
AREA = 3080 * 3072 * (1.012 / 3600) ** 2


def wcs_of(ra, dec, rcid):
    w = ZTF.approximate_wcs(ra, dec, *ccd_qid(rcid)).wcs
    return [*w.crval, *w.crpix, *w.cd.ravel()]


def quadrant(ra=30.0, dec=20.0, rcid=0, fid=1, programid=1, maglim=20.5, wcs=True):
    row = {"ra": ra, "dec": dec, "rcid": rcid, "fid": fid, "programid": programid, "maglim": maglim}
    return {**row, "wcs": wcs_of(ra, dec, rcid) if wcs else [None] * 8}


@pytest.fixture
def context(database, tmp_path):
    places = {name: tmp_path / name for name in ("archive", "inbox", "catalogs")}
    return Context.build(database.pipeline, {**places, "camera": "ztf"})


_number = iter(range(10**6))


def observe(context, nid, fid=1, programid=1, rcids=range(64), ra=30.0, dec=20.0, maglim=20.5, status=1):
    """Register the calibrated quadrants of one exposure, without their files."""
    k = next(_number)
    name = f"ztf_{ids.night_date(nid)}{k:06d}"
    with db.transaction(context.dsn) as cursor:
        cursor.execute("select ensure_night(%s)", (nid,))
        cursor.execute(
            "insert into exposures (exposure, nid, field, fid, filtercode, imgtype, programid, obsjd, ra, dec, state)"
            " values (%s, %s, 500, %s, 'zg', 'o', %s, 2458000, %s, %s, 'processed')",
            (name, nid, fid, programid, ra, dec),
        )
        for rcid in rcids:
            keys = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
            meta = {**dict(zip(keys, wcs_of(ra, dec, rcid), strict=True)), "MAGLIM": maglim}
            values = {
                "provenance_id": f"{name}/{rcid}", "kind": "sciimg", "dataset": f"sci/{name}/{rcid}", "step": "sci",
                "exposure": name, "nid": nid, "fid": fid, "rcid": rcid, "programid": programid, "filename": "x",
                "path": f"sci/{name}/{rcid}", "bytes": 1, "sha256": "x", "version": 1, "status": status,
                "swversion": "x", "meta": meta,
            }  # fmt: skip
            db.insert(cursor, "products", values)


def test_cells_of_a_quadrant_are_those_whose_centres_are_inside():
    for ra, dec in ((30.0, 20.0), (0.1, -30.0), (123.0, 89.0), (200.0, 41.81), (315.0, -2.0)):
        row = quadrant(ra, dec, rcid=17)
        corners = coverage.corners_of(row, ZTF)
        apart = sky.separation_arcsec(*corners.T, *ZTF.corners(ra, dec, *ccd_qid(17)).T)
        assert apart.max() < 1e-3  # the same corners, by another way
        cells = coverage.cells_inside(corners)
        assert len(cells) * coverage.CELL_DEG2 == pytest.approx(AREA, rel=0.07)
        lon, lat = ZTF.quadrant_centre_sky(ra, dec, *ccd_qid(17))
        near = core.healpix_cone_search(
            lon * units.deg, lat * units.deg, 0.8 * units.deg, 2**coverage.ORDER, order="nested"
        )
        assert np.array_equal(cells, np.sort(near[sky.inside_polygon(*_centres(near), corners.ravel())]))
        x, y = ZTF.approximate_wcs(ra, dec, *ccd_qid(17)).world_to_pixel_values(*_centres(cells))
        assert x.min() > -1 and y.min() > -1 and x.max() < 3072 and y.max() < 3080
    assert np.array_equal(coverage.corners_of(quadrant(wcs=False), ZTF), ZTF.corners(30.0, 20.0, 1, 1))


def _centres(cells):
    ra, dec = core.healpix_to_lonlat(cells, 2**coverage.ORDER, order="nested")
    return ra.to_value("deg"), dec.to_value("deg")


def test_visits_add_up_and_depth_follows_the_variance():
    made = coverage.depth_map(
        [quadrant(), quadrant(), quadrant(maglim=21.5), quadrant(programid=2), quadrant(fid=2, maglim=None)], ZTF
    )
    public = made[(made["fid"] == 1) & (made["programid"] == 1)]
    assert set(public["visits"]) == {3} and np.allclose(public["best"], 21.5)
    variance = 1 / (2 * 10 ** (0.8 * 20.5) + 10 ** (0.8 * 21.5))
    assert coverage.depth_mag(public["weight"]) == pytest.approx(-1.25 * np.log10(variance))
    assert set(made[made["programid"] == 2]["visits"]) == {1}
    unknown = made[made["fid"] == 2]
    assert np.isnan(unknown["best"]).all() and np.isnan(coverage.depth_mag(unknown["weight"])).all()
    one = coverage.depth_map([quadrant()], ZTF)
    four = coverage.add_up([one] * 4)
    gain = coverage.depth_mag(four["weight"]) - coverage.depth_mag(one["weight"])
    assert gain == pytest.approx(1.25 * np.log10(4))
    assert len(coverage.add_up([])) == 0 and len(coverage.depth_map([], ZTF)) == 0


def test_a_night_is_mapped_once_and_the_total_is_the_sum(context):
    observe(context, NID, rcids=range(8))
    observe(context, NID, rcids=range(8), programid=2, maglim=21.0)
    observe(context, NID, rcids=range(8), status=0)  # not usable: not seen
    first = coverage.make_coverage(context, NID)
    assert first.figures["quadrants"] == 16 and first.figures["area_deg2"] == pytest.approx(8 * AREA, rel=0.02)
    observe(context, NID + 1, rcids=range(4, 12), fid=2)
    second = coverage.make_coverage(context, NID + 1)
    assert second.figures["nights"] == 2
    assert second.figures["total_deg2"] == pytest.approx(12 * AREA, rel=0.02)
    query = "select kind, nid, version, sha256, path from products where kind like 'coverage%' order by product_id"
    rows = db.fetch_all(context.dsn, query)
    assert len(rows) == len({(r["kind"], r["nid"]) for r in rows})
    total = read(context, "coverage_total", NID + 1)[0]
    parts = [read(context, "coverage_night", nid)[0] for nid in (NID, NID + 1)]
    assert np.array_equal(total, coverage.add_up(parts))
    for nid in (NID, NID + 1):
        coverage.make_coverage(context, nid)
    assert db.fetch_all(context.dsn, query) == rows
    kinds = {r["kind"] for r in rows if r["nid"] == NID}
    assert {
        "coverage_night_moc_zg",
        "coverage_night_moc_zg_p1",
        "coverage_night_moc_zg_p2",
        "coverage_night_png",
    } <= kinds


def read(context, kind, nid):
    query = "select path, sha256 from products where kind = %s and nid = %s and vbest > 0"
    row = db.fetch_one(context.dsn, query, (kind, nid))
    return coverage.read_map(context.archive / row["path"], row["sha256"])


def test_a_night_that_changed_is_renewed_in_the_total_too(context):
    observe(context, NID, rcids=[0])
    coverage.make_coverage(context, NID)
    observe(context, NID + 1, rcids=[0])
    coverage.make_coverage(context, NID + 1)
    observe(context, NID, rcids=[0])  # late
    coverage.make_coverage(context, NID)
    assert set(read(context, "coverage_total", NID + 1)[0]["visits"]) == {2}  # not yet
    coverage.make_coverage(context, NID + 1)
    total, header = read(context, "coverage_total", NID + 1)
    assert set(total["visits"]) == {3} and [n for n, _ in header["inputs"]] == [NID, NID + 1]
    assert len(db.fetch_all(context.dsn, "select 1 from products where kind = 'coverage_night' and nid = 800")) == 2


def test_damage_is_named_and_nothing_to_do_is_no_error(context):
    with pytest.raises(NoWork):
        coverage.make_coverage(context, NID)
    with pytest.raises(NoWork):
        wanted_night(context)
    with pytest.raises(BadName):
        wanted_night(context, "20269999")
    observe(context, NID, rcids=[0])
    coverage.make_coverage(context, NID)
    observe(context, NID + 1, rcids=[0])
    assert wanted_night(context) == NID + 1 and wanted_night(context, ids.night_date(NID)) == NID
    path = context.archive / coverage.map_path(NID, "night.parquet")
    (context.archive / coverage.map_path(NID, "total.parquet")).unlink()
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"x" + content[-8:])
    with pytest.raises(ChecksumMismatch):
        coverage.make_coverage(context, NID + 1)
    path.unlink()
    with pytest.raises(FilesMissing):
        coverage.make_coverage(context, NID + 1)
    coverage.make_coverage(context, NID)
    assert coverage.make_coverage(context, NID + 1).figures["nights"] == 2


def test_outlines_are_written_and_read_back(context, tmp_path):
    observe(context, NID, rcids=range(4))
    coverage.make_coverage(context, NID)
    cells, order = moc.read_moc(context.archive / coverage.map_path(NID, "night_zg.moc.fits"))
    assert order == coverage.ORDER
    assert np.array_equal(cells, np.unique(read(context, "coverage_night", NID)[0]["cell"]))


def test_a_map_of_cells_says_what_is_whole_in_larger_cells(tmp_path, rng):
    for order, n in ((4, 2000), (3, 768), (0, 12), (5, 0)):
        cells = np.sort(rng.choice(12 * 4**order, n, replace=False))
        numbers = moc.to_nuniq(cells, order)
        assert np.array_equal(moc.from_nuniq(numbers, order), cells)
        level = (np.floor(np.log2(numbers / 4)) // 2).astype(int)
        parents = [(lv, (u - 4 * 4**lv) // 4) for lv, u in zip(level, numbers, strict=True) if lv > 0]
        assert all(parents.count(p) < 4 for p in set(parents))  # no four siblings are left
    assert np.array_equal(moc.to_nuniq(np.arange(768), 3), np.arange(4, 16))  # the whole sky
    (tmp_path / "x.fits").write_bytes(b"nothing")
    with pytest.raises(moc.UnreadableFile):
        moc.read_moc(tmp_path / "x.fits")


def test_the_page_shows_the_table_and_the_maps(context, database):
    assert "nothing has been seen" in text_of(coverage_page(database.reader))
    observe(context, NID, rcids=range(4))
    observe(context, NID, rcids=range(4), programid=2, maglim=21.0)
    coverage.make_coverage(context, NID)
    words = text_of(coverage_page(database.reader))
    assert "zg 1 4" in words and "zg all 8" in words and "20.50" in words
    meta = db.fetch_one(context.dsn, "select meta from products where kind = 'coverage_night'")["meta"]
    both = next(row for row in meta["rows"] if row["program"] == "all")
    assert both["median_visits"] == 2 and both["area_deg2"] == pytest.approx(4 * AREA, rel=0.03) and json.dumps(meta)
    for which in ("night", "total"):
        assert coverage_picture(database.reader, context.archive, which, NID).startswith(b"\x89PNG")
    for which, nid in (("night", NID + 1), ("../x", NID)):
        with pytest.raises(FilesMissing):
            coverage_picture(database.reader, context.archive, which, nid)
