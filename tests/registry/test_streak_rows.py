"""Streaks in the database: loaded with the image, replaced with it, refused without harm."""

from __future__ import annotations

import numpy as np
import psycopg2.errors
import pytest

from ztfds.difference.streaks import DTYPE
from ztfds.registry import database as db
from ztfds.registry import exposures, streaks
from ztfds.survey import ids

JD = 2458454.8
EXPOSURE = "ztf_20181202300000"
PID = ids.pid(JD, 22)


def table(n: int) -> np.ndarray:
    rows = np.zeros(n, DTYPE)
    for k, row in enumerate(rows):
        row["strid"], row["pid"], row["streakid"] = k, PID, PID * 10_000 + k
        row["jd"], row["nid"], row["rcid"], row["fid"] = JD, ids.nid(JD), 22, 2
        row["ra"], row["dec"], row["x"], row["x1"], row["prob"], row["snr"] = (
            150.0 + k,
            2.0,
            10.0,
            5.0,
            0.9 - 0.1 * k,
            9,
        )
        row["apmag"] = np.nan
    return rows


@pytest.fixture
def dsn(database):
    with db.transaction(database.pipeline) as cursor:
        exposures.ensure_night(cursor, ids.nid(JD))
        db.insert(
            cursor,
            "exposures",
            {
                "exposure": EXPOSURE,
                "nid": ids.nid(JD),
                "field": 600,
                "fid": 2,
                "filtercode": "zr",
                "imgtype": "o",
                "obsjd": JD,
            },
        )
    return database.pipeline


def load(dsn: str, rows: np.ndarray) -> int:
    with db.transaction(dsn) as cursor:
        return streaks.replace(cursor, EXPOSURE, PID, rows)


def test_a_newer_version_takes_the_place(dsn):
    assert load(dsn, table(3)) == 3
    assert load(dsn, table(2)) == 2
    found = streaks.of_night(dsn, ids.nid(JD))
    assert [row["strid"] for row in found] == [0, 1]
    assert found[0]["xpos"] == 11.0  # 1-based
    assert found[0]["xpos1"] == 6.0
    assert found[0]["apmag"] is None
    assert len(found[0]["trksub"]) == 8
    assert found[0]["hpx"] != found[1]["hpx"]
    assert len(streaks.of_night(dsn, ids.nid(JD), least_prob=0.85)) == 1
    with db.transaction(dsn) as cursor:
        assert [row["streakid"] for row in streaks.of_image(cursor, PID)] == [PID * 10_000, PID * 10_000 + 1]
    assert load(dsn, table(0)) == 0
    assert streaks.of_night(dsn, ids.nid(JD)) == []


def test_refused_rows_do_not_cost_the_transaction(dsn):
    twice = table(2)
    twice["streakid"] = twice["streakid"][0]
    load(dsn, table(1))
    with db.transaction(dsn) as cursor:
        assert streaks.replace(cursor, EXPOSURE, PID, twice) == 0
        cursor.execute("update exposures set field = 601 where exposure = %s", (EXPOSURE,))
    assert len(streaks.of_night(dsn, ids.nid(JD))) == 1  # as before
    assert db.fetch_one(dsn, "select field from exposures")["field"] == 601


def test_readers_cannot_write(database, dsn):
    load(dsn, table(1))
    assert len(streaks.of_night(database.reader, ids.nid(JD))) == 1
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        load(database.reader, table(1))
