"""Connections and binary COPY."""

import numpy as np
import pytest

from ztfds.registry import database as db
from ztfds.survey.errors import DatabaseDown


def test_nobody_listens_is_database_down():
    with pytest.raises(DatabaseDown):
        db.connect("postgresql://nobody@127.0.0.1:1/none", timeout_s=2)


def test_transaction_rolls_back_on_error(database):
    with pytest.raises(ValueError), db.transaction(database.pipeline) as cursor:
        cursor.execute("select ensure_night(5)")
        raise ValueError
    assert db.fetch_all(database.reader, "select * from nights") == []


def test_server_going_away_is_database_down(database, postgres):
    from embedded import administer

    with pytest.raises(DatabaseDown), db.transaction(database.pipeline) as cursor:
        administer(
            postgres, f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database.name}'"
        )
        cursor.execute("select 1")


def test_binary_copy_keeps_every_type_and_null(database, rng):
    n = 1000
    with db.transaction(database.owner) as cursor:
        cursor.execute(
            "create table ztf.kinds (a smallint, b integer, c bigint, d real, e double precision, f boolean, g text)"
        )
        values = {
            "a": ("smallint", rng.integers(-(2**15), 2**15, n)),
            "b": ("integer", np.ma.MaskedArray(rng.integers(-(2**31), 2**31, n), mask=rng.random(n) < 0.3)),
            "c": ("bigint", rng.integers(-(2**62), 2**62, n)),
            "d": ("real", np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)).astype("f4")),
            "e": ("double precision", rng.normal(size=n)),
            "f": ("boolean", rng.random(n) < 0.5),
            "g": ("text", np.array([None if i % 7 == 0 else "é" * (i % 11) for i in range(n)], dtype=object)),
        }
        assert db.copy_rows(cursor, "kinds", values) == n
        back = db.rows(cursor, "select * from kinds")
    for name, (kind, wanted) in values.items():
        got = [row[name] for row in back]
        if kind == "text":
            assert got == wanted.tolist()
            continue
        null = np.ma.getmaskarray(wanted) | (np.isnan(wanted) if kind == "real" else False)
        assert [g is None for g in got] == null.tolist()
        assert [type(w)(g) for g, w, m in zip(got, np.ma.getdata(wanted), null, strict=True) if not m] == [
            w for w, m in zip(np.ma.getdata(wanted), null, strict=True) if not m
        ]


def test_copy_of_nothing_is_nothing(database):
    with db.transaction(database.pipeline) as cursor:
        assert db.copy_rows(cursor, "candidates", {}) == 0
        assert db.copy_rows(cursor, "candidates", {"objectid": ("text", np.array([], dtype=object))}) == 0


def test_json_safe_removes_numpy_and_not_a_number():
    value = {"a": np.float32(1.5), "b": float("nan"), "c": np.arange(3), "d": [np.int64(4), {"e": np.bool_(True)}]}
    assert db.json_safe(value) == {"a": 1.5, "b": None, "c": [0, 1, 2], "d": [4, {"e": True}]}


def test_look_ups_in_a_session_share_one_connection(database):
    def who():
        return db.fetch_one(database.reader, "select pg_backend_pid() as pid")["pid"]

    with db.session(database.reader):
        assert who() == who()
        assert db.fetch_one(database.pipeline, "select current_user::text as u") == {"u": "ztf_pipeline"}
    assert who() != who()
