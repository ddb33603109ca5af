"""Migrations and what the roles may do."""

import psycopg2
import pytest

from ztfds.registry import database as db
from ztfds.registry import migrate as m
from ztfds.survey.errors import ConfigurationError, DatabaseDown


def test_migrations_are_repeatable_and_recorded(database):
    assert m.migrate(database.owner) == []
    applied = db.fetch_all(database.reader, "select version, name, sha256 from schema_migrations order by version")
    assert [(row["version"], row["sha256"]) for row in applied] == [(x.version, x.sha256) for x in m.load()]


def test_new_migration_is_applied_once_and_a_changed_one_refused(database, tmp_path):
    for migration in m.load():
        (tmp_path / f"{migration.version:04d}_{migration.name}.sql").write_text(migration.text)
    extra = tmp_path / "0900_extra.sql"
    extra.write_text("create table ztf.extra (n integer);")
    (tmp_path / "README").write_text("not a migration")
    assert m.migrate(database.owner, tmp_path) == ["extra"]
    assert m.migrate(database.owner, tmp_path) == []
    extra.write_text("create table ztf.extra (n bigint);")
    with pytest.raises(ConfigurationError, match="changed after it was applied"):
        m.migrate(database.owner, tmp_path)


def test_failing_migration_leaves_nothing(database, tmp_path):
    (tmp_path / "0950_broken.sql").write_text("create table ztf.half (n integer); select 1 / 0;")
    with pytest.raises(psycopg2.Error):
        m.migrate(database.owner, tmp_path)
    assert db.fetch_one(database.owner, "select to_regclass('ztf.half') as t")["t"] is None
    assert not db.fetch_all(database.owner, "select 1 from schema_migrations where version = 950")


def test_two_migrations_of_one_number_are_refused(tmp_path):
    (tmp_path / "0001_a.sql").write_text("select 1;")
    (tmp_path / "0001_b.sql").write_text("select 1;")
    with pytest.raises(ConfigurationError, match="same number"):
        m.load(tmp_path)


@pytest.mark.parametrize(
    "statement",
    [
        "drop table ztf.exposures",
        "alter table ztf.exposures add column more integer",
        "create table ztf.mine (n integer)",
        "create table public.mine (n integer)",
        "truncate ztf.exposures",
        "delete from ztf.products",
        "delete from ztf.alert_outbox",
        "insert into ztf.schema_migrations (version, name, sha256) values (999, 'x', 'x')",
        "create role intruder",
        "alter role ztf_reader superuser",
        "set role ztf_owner",
        "copy ztf.nights to program 'cat'",
        "select pg_read_file('/etc/passwd')",
    ],
)
def test_pipeline_cannot_change_structure_or_escape(database, statement):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.transaction(database.pipeline) as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "insert into ztf.nights (nid, nightdate) values (1, '2017-01-02')",
        "update ztf.products set vbest = 0",
        "select ztf.ensure_night(1)",
        "select ztf.next_object_number(2018)",
        "select nextval('ztf.jobs_job_id_seq')",
    ],
)
def test_reader_cannot_write(database, statement):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.transaction(database.reader) as cursor:
        cursor.execute(statement)


def test_operator_decides_but_does_not_write_data(database):
    with db.transaction(database.operator) as cursor:
        cursor.execute("update products set vbest = 2 where false")
        cursor.execute("update calibrations set accepted = false where false")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.transaction(database.operator) as cursor:
        cursor.execute("update products set sha256 = 'forged'")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.transaction(database.operator) as cursor:
        cursor.execute("insert into nights (nid, nightdate) values (1, '2017-01-02')")


def test_pipeline_writes_data_and_makes_partitions(database):
    with db.transaction(database.pipeline) as cursor:
        cursor.execute("select ensure_night(700)")
        cursor.execute("select ensure_night(700)")
    night = db.fetch_one(database.reader, "select nightdate::text from nights where nid = 700")
    assert night == {"nightdate": "2018-12-02"}
    assert db.fetch_all(database.reader, "select * from candidates where nid = 700") == []
    assert db.fetch_one(database.reader, "select to_regclass('ztf.candidates_n700')::text as t")["t"] is not None


def test_airflow_cannot_enter_the_survey_database(postgres):
    with pytest.raises(DatabaseDown, match="permission denied"):
        db.connect(postgres.dsn("airflow", "ztfds"))
    with pytest.raises(DatabaseDown, match="password authentication failed"):
        db.connect(postgres.dsn("ztf_reader").replace(postgres.dsn("ztf_reader").split(":")[2].split("@")[0], "wrong"))
