"""Candidates, history and coverage."""

import numpy as np
import pytest

from ztfds.formats.alertschema import CANDIDATE, fields
from ztfds.registry import candidates, exposures, objects, sky
from ztfds.registry import database as db

JD = 2458454.8


def record(candid, ra, dec, jd=JD, field=600, rcid=20, **more):
    """A complete candidate record with a value in every column."""
    row = {}
    for f in fields()[CANDIDATE]:
        row[f.name] = {"float": 1.5, "double": 2.5, "int": 3, "long": 4, "string": "text"}[f.kind]
    nid = int(jd - 2457754.5)
    known = {
        "candid": candid,
        "ra": ra,
        "dec": dec,
        "jd": jd,
        "nid": nid,
        "field": field,
        "rcid": rcid,
        "pid": candid // 100,
    }
    return {**row, **known, "isdiffpos": "t", "programid": 1, "fid": 1, **more}


def store_named(dsn, records):
    """Name the objects of records and load them."""
    with db.transaction(dsn) as cursor:
        for row in records:
            exposures.ensure_night(cursor, row["nid"])
            at = [np.array([row[key]]) for key in ("ra", "dec")]
            name = objects.associate(cursor, *at, [row["candid"]], row["jd"])
            candidates.insert_candidates(cursor, "ztf_20181202300000", [row], name, [row["candid"] % 2 == 1])


def store(dsn, records, exposure="ztf_20181202300000"):
    with db.transaction(dsn) as cursor:
        for nid in {r["nid"] for r in records}:
            exposures.ensure_night(cursor, nid)
        names = [f"ZTF18{i:07d}" for i in range(len(records))]
        for nid in {r["nid"] for r in records}:
            rows = [r for r in records if r["nid"] == nid]
            candidates.insert_candidates(cursor, exposure, rows, names[: len(rows)], [True] * len(rows))


def test_every_field_of_the_packet_has_its_column(database):
    with db.transaction(database.pipeline) as cursor:
        types = candidates.column_types(cursor)
    wanted = {"float": "real", "double": "double precision", "int": "integer", "long": "bigint", "string": "text"}
    assert {f.name: wanted[f.kind] for f in fields()[CANDIDATE]} == {
        name: kind for name, kind in types.items() if name not in ("objectid", "exposure", "hpx", "alerted")
    }


def test_a_row_comes_back_as_it_was(database):
    given = record(7, 10.0, 20.0, magnr=None, sigmagnr=float("nan"), objectidps1=None, ssnamenr=None)
    store(database.pipeline, [given])
    (row,) = candidates.of_exposure(database.reader, "ztf_20181202300000")
    assert {k: row[k] for k in given} == {**given, "sigmagnr": None}
    assert row["hpx"] == int(sky.cell(10.0, 20.0)[0]) and row["alerted"] is True


def test_history_is_what_lies_within_radius_and_time(database, rng):
    n = 300
    ra, dec = 100.0 + rng.random(n) * 0.002, 30.0 + rng.random(n) * 0.002
    jd = JD - rng.integers(0, 60, n) - 0.01 * rng.integers(0, 5, n)
    store(database.pipeline, [record(1000 + i, ra[i], dec[i], jd[i]) for i in range(n)])
    at_ra, at_dec = ra[:60], dec[:60]
    with db.transaction(database.pipeline) as cursor:
        found = candidates.near(cursor, at_ra, at_dec, JD - 30, JD, 1.5)
    for i in range(60):
        apart = sky.separation_arcsec(at_ra[i], at_dec[i], ra, dec)
        wanted = [1000 + k for k in np.flatnonzero((apart <= 1.5) & (jd >= JD - 30) & (jd <= JD))]
        assert sorted(row["candid"] for row in found[i]) == sorted(wanted)
        assert [row["jd"] for row in found[i]] == sorted(row["jd"] for row in found[i])


def test_detection_counts_are_of_the_same_field_and_channel(database):
    rows = [
        record(1, 10.0, 20.0, JD - 300),
        record(2, 10.0, 20.0, JD - 3),
        record(3, 10.0, 20.0, JD - 2, field=601),
        record(4, 10.0, 20.0, JD - 2, rcid=21),
        record(5, 10.0, 20.0, JD),
        record(6, 10.001, 20.0, JD - 5),
    ]
    store_named(database.pipeline, rows)

    def counts(jd, rcid=20):
        with db.transaction(database.pipeline) as cursor:
            return candidates.detection_counts(cursor, np.array([10.0, 50.0]), np.array([20.0, 0.0]), 600, rcid, jd)

    assert counts(JD) == [(2, JD - 300), (0, None)]
    assert counts(JD + 9) == [(3, JD - 300), (0, None)] and counts(JD, 21) == [(1, JD - 2), (0, None)]
    assert counts(JD - 3) == [(1, JD - 300), (0, None)]  # an exposure that is processed late
    assert counts(JD - 300) == [(0, None), (0, None)]


def test_counting_detections_does_not_lock_every_night(database):
    store_named(database.pipeline, [record(10 + 2 * i, 10.0, 20.0, JD - i) for i in range(20)])
    with db.transaction(database.pipeline) as cursor:
        counts = candidates.detection_counts(cursor, np.array([10.0]), np.array([20.0]), 600, 20, JD - 0.5)
        cursor.execute(
            "select count(distinct relation) from pg_locks l join pg_class c on c.oid = l.relation"
            " where l.pid = pg_backend_pid() and c.relkind = 'r' and relname like 'candidates_n%%'"
        )
        assert counts == [(19, JD - 19)] and cursor.fetchone()[0] <= 2


def test_a_newer_version_takes_the_place_of_the_candidates_of_the_former(database):
    same = {"pid": 77}
    rows = [record(1, 10.0, 20.0, JD - 5), record(3, 10.0, 20.0, JD, **same), record(4, 50.0, 20.0, JD, **same)]
    store_named(database.pipeline, rows)
    with db.transaction(database.pipeline) as cursor:
        assert candidates.remove(cursor, rows[1]["nid"], 77) == {3}
    query = "select ndet, jdfirst, jdlast from object_history"
    assert [tuple(row.values()) for row in db.fetch_all(database.reader, query)] == [(1, JD - 5, JD - 5)]
    store_named(database.pipeline, rows[1:2])
    assert [row["candid"] for row in candidates.of_exposure(database.reader, "ztf_20181202300000")] == [1, 3]
    assert [tuple(row.values()) for row in db.fetch_all(database.reader, query)] == [(2, JD - 5, JD)]


def _difference(cursor, number, ra, dec, jd, field=600, rcid=20, status=1):
    """A difference image of one square degree, with the product that it needs."""
    exposures.ensure_night(cursor, int(jd - 2457754.5))
    exposure = f"ztf_20181202{number:06d}"
    base = {"exposure": exposure, "nid": int(jd - 2457754.5), "field": field, "filtercode": "zg", "imgtype": "o"}
    exposures.register_exposure(cursor, {**base, "obsjd": jd, "expected": 1})
    product = db.insert(
        cursor,
        "products",
        {"provenance_id": f"p{number}", "kind": "scimrefdiffimg", "dataset": f"d{number}", "step": "difference",
         "filename": "f", "path": "f", "bytes": 1, "sha256": "0", "version": 1, "swversion": "x"},
        "returning product_id",
    )  # fmt: skip
    half = 0.5 / np.cos(np.radians(dec))
    corners = [ra - half, dec - 0.5, ra + half, dec - 0.5, ra + half, dec + 0.5, ra - half, dec + 0.5]
    values = {"pid": number, "provenance_id": f"p{number}", "product_id": product["product_id"], "exposure": exposure,
              "nid": int(jd - 2457754.5), "field": field, "fid": 1, "rcid": rcid, "jd": jd, "programid": 1,
              "status": status, "diffmaglim": 20.5, "magzpsci": float("nan"), "ra": ra, "dec": dec,
              "corners": corners}  # fmt: skip
    candidates.register_difference(cursor, values)
    return values


def test_coverage_finds_the_images_that_hold_a_position(database, rng):
    with db.transaction(database.pipeline) as cursor:
        images = [
            _difference(cursor, i, 180 + rng.uniform(-2, 2), 45 + rng.uniform(-2, 2), JD - i, rcid=i)
            for i in range(1, 60)
        ]
        images.append(_difference(cursor, 99, 180.0, 45.0, JD - 0.5, rcid=0, status=0))
        ra, dec = 180 + rng.uniform(-0.3, 0.3, 20), 45 + rng.uniform(-0.3, 0.3, 20)
        found = candidates.covering(cursor, ra, dec, JD - 30, JD, 0.8)
        counts = candidates.coverage_counts(cursor, ra, dec, JD, 0.8)
    inside = np.array([sky.inside_polygon(ra, dec, image["corners"]) for image in images])
    good, recent = np.array([i["status"] == 1 for i in images]), np.array([i["jd"] >= JD - 30 for i in images])
    for k in range(20):
        wanted = {images[j]["pid"] for j in np.flatnonzero(inside[:, k] & good & recent)}
        assert {row["pid"] for row in found[k]} == wanted
        assert counts[k] == np.count_nonzero(inside[:, k] & good)
    assert inside[:-1].any()


def test_coverage_counts_every_epoch_of_a_field(database):
    with db.transaction(database.pipeline) as cursor:
        for i in range(5):
            _difference(cursor, 10 + i, 50.0, -20.0, JD - i)
        _difference(cursor, 30, 50.2, -20.0, JD - 1, field=601)
        counts = candidates.coverage_counts(cursor, np.array([50.0, 50.6]), np.array([-20.0, -20.0]), JD, 0.8)
    assert counts.tolist() == [5, 1]  # strictly before JD: four and one; the other position is in field 601 alone


def test_a_newer_difference_replaces_the_row_of_its_quadrant(database):
    with db.transaction(database.pipeline) as cursor:
        values = _difference(cursor, 1, 50.0, -20.0, JD)
        candidates.register_difference(cursor, {**values, "status": 0, "reason": "too noisy"})
        (row,) = db.rows(cursor, "select status, reason, magzpsci from diffimages")
    assert (row["status"], row["reason"], row["magzpsci"]) == (0, "too noisy", None)


def test_loading_is_atomic(database):
    with pytest.raises(Exception, match="duplicate key"):
        store(database.pipeline, [record(1, 0.0, 0.0), record(1, 0.0, 0.0)])
    assert candidates.of_exposure(database.reader, "ztf_20181202300000") == []
