"""Nights, exposures and their CCD files: rows, states, the times at which stages were reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg2.extras

from ztfds.registry.database import Cursor, fetch_all, fetch_one, plain, rows, transaction
from ztfds.survey.errors import ConfigurationError
from ztfds.survey.fields import Field
from ztfds.survey.states import CcdState, ExposureState, exposure_state

STAGES = ("ingested", "calibrated", "differenced", "processed")
"""Stages of a CCD file whose times are kept, in order; an exposure has `published` as well."""

_EXPOSURE_COLUMNS = (
    "exposure", "expid", "nid", "field", "fid", "filtercode", "imgtype", "programid", "programpi", "obsjd", "exptime",
    "airmass", "ra", "dec", "expected", "arrival",
)  # fmt: skip


def ensure_night(cursor: Cursor, nid: int) -> None:
    """Make the row of a night and its partition of candidates, if they are missing."""
    cursor.execute("select ensure_night(%s)", (nid,))


def register_exposure(cursor: Cursor, values: Mapping[str, Any]) -> None:
    """Insert an exposure, or fill in what was not known of it (a first file may have had an unreadable header).

    Parameters
    ----------
    cursor : psycopg2 cursor
    values : mapping
        exposure, nid, field, filtercode, imgtype, obsjd, expected (required); expid, fid, programid, programpi, exptime,
        airmass, ra, dec, arrival (None where unknown). Values known before are kept, except that a Julian date from a
        header replaces the one from the file name; the earliest arrival is kept.
    """
    ensure_night(cursor, int(values["nid"]))
    known = {name: values.get(name) for name in _EXPOSURE_COLUMNS}
    inserted = [name for name in known if name != "expid"]
    fill = ", ".join(
        f"{name} = coalesce(e.{name}, excluded.{name})"
        for name in ("fid", "programid", "programpi", "exptime", "airmass", "ra", "dec")
    )
    values = {name: plain(value) for name, value in known.items()}
    cursor.execute(
        f"insert into exposures as e ({', '.join(inserted)}) values ({', '.join(f'%({name})s' for name in inserted)})"
        f" on conflict (exposure) do update set {fill}, arrival = least(e.arrival, excluded.arrival),"
        " obsjd = case when e.expid is null and %(expid)s::bigint is not null then excluded.obsjd else e.obsjd end",
        values,
    )
    # Apart from the rest: a statement that may change a key waits for every transaction that refers to the row; and of two files
    # of an exposure that come at once the second would break the rule of different numbers before it waited for the first.
    if known["expid"] is not None:
        cursor.execute("update exposures set expid = %(expid)s where exposure = %(exposure)s and expid is null", values)


def with_expid(cursor: Cursor, expid: int, other_than: str) -> str | None:
    """Name of another exposure that has this exposure id, None if there is none."""
    found = rows(cursor, "select exposure from exposures where expid = %s and exposure <> %s", (expid, other_than))
    return str(found[0]["exposure"]) if found else None


def register_ccdfile(cursor: Cursor, values: Mapping[str, Any]) -> int:
    """Insert a CCD file or take over the row of one that is not in use (quarantined or missing); return its id.

    Parameters
    ----------
    cursor : psycopg2 cursor
        The caller holds the lock of the file name (`lock_filename`).
    values : mapping
        exposure, ccdid, filename, bytes, sha256, state, error_code, reason, run_id, arrival, ingested, path, product_id,
        header (a dictionary).
    """
    names = list(values)
    data = {k: psycopg2.extras.Json(v) if isinstance(v, dict) else v for k, v in values.items()}
    update = ", ".join(f"{name} = excluded.{name}" for name in names if name != "filename")
    cursor.execute(
        f"insert into ccdfiles ({', '.join(names)}) values ({', '.join(f'%({name})s' for name in names)})"
        f" on conflict (filename) do update set {update} returning ccdfile_id",
        data,
    )
    (key,) = cursor.fetchone() or (0,)
    return int(key)


def lock_filename(cursor: Cursor, filename: str) -> None:
    """Let nobody else decide about this file name until the transaction ends."""
    cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 2))", (filename,))


def ccdfile(cursor: Cursor, filename: str) -> dict[str, Any] | None:
    """The row of a CCD file, None if it never came."""
    found = rows(cursor, "select * from ccdfiles where filename = %s", (filename,))
    return found[0] if found else None


def find_ccdfile(dsn: str, filename: str) -> dict[str, Any] | None:
    """The row of a CCD file over a connection of its own."""
    return fetch_one(dsn, "select * from ccdfiles where filename = %s", (filename,))


def find(dsn: str, exposure: str) -> dict[str, Any] | None:
    """The row of an exposure."""
    return fetch_one(dsn, "select * from exposures where exposure = %s", (exposure,))


def ccdfiles_of(dsn: str, exposure: str) -> list[dict[str, Any]]:
    """The CCD files of an exposure, by CCD."""
    return fetch_all(dsn, "select * from ccdfiles where exposure = %s order by ccdid, filename", (exposure,))


def set_ccd_state(
    cursor: Cursor, filename: str, state: CcdState, *, error_code: str | None = None, reason: str | None = None
) -> None:
    """Put a CCD file into a state, with its reason; ``processed`` is stamped when the state is a final one."""
    cursor.execute(
        "update ccdfiles set state = %s, error_code = %s, reason = %s,"
        " processed = case when %s then coalesce(processed, now()) else processed end where filename = %s",
        (state.value, error_code, reason, state.final, filename),
    )


def stamp(cursor: Cursor, filename: str, stage: str) -> None:
    """Note that a CCD file has reached a stage now; the first time counts."""
    if stage not in STAGES:
        raise ConfigurationError(f"no stage {stage!r}: known are {STAGES}")
    cursor.execute(f"update ccdfiles set {stage} = coalesce({stage}, now()) where filename = %s", (filename,))


def refresh(cursor: Cursor, exposure: str, *, closed: bool = False) -> ExposureState:
    """Derive the state and the stage times of an exposure from its CCD files and store them.

    Parameters
    ----------
    cursor : psycopg2 cursor
    exposure : str
    closed : bool
        True when no further file is waited for: those that have not come count as missing.

    Returns
    -------
    ExposureState
    """
    cursor.execute("select expected, imgtype from exposures where exposure = %s for no key update", (exposure,))
    found = cursor.fetchone()
    if found is None:
        raise ConfigurationError(f"exposure {exposure} is not registered")
    expected, imgtype = found
    files = rows(cursor, "select state, error_code, ccdid from ccdfiles where exposure = %s", (exposure,))
    states = [CcdState(row["state"]) for row in files]
    if closed:
        states += [CcdState.missing] * (expected - len({row["ccdid"] for row in files}))
    state = exposure_state(states, expected, calibration=imgtype != "o")
    codes = sorted({row["error_code"] for row in files if row["error_code"]})
    times = ", ".join(f"{stage} = coalesce(f.{stage}, e.{stage})" for stage in STAGES)
    latest = ", ".join(f"max({stage}) as {stage}" for stage in STAGES)
    cursor.execute(
        f"update exposures e set state = %s, reason = %s, {times}"
        f" from (select {latest} from ccdfiles where exposure = %s) f where e.exposure = %s",
        (state.value, ", ".join(codes) or None, exposure, exposure),
    )
    return state


_OPEN = (ExposureState.arriving, ExposureState.processing)


def is_closed(cursor: Cursor, exposure: str) -> bool:
    """Whether the work on an exposure had come to an end before: nothing is known to be under way."""
    cursor.execute("select state from exposures where exposure = %s", (exposure,))
    found = cursor.fetchone()
    return found is not None and found[0] not in _OPEN


def note_published(cursor: Cursor, exposure: str) -> None:
    """Stamp an exposure as published when the broker has acknowledged all its alerts (or it made none)."""
    cursor.execute(
        "update exposures e set published = coalesce(o.last, e.processed) from (select max(acked) as last,"
        " coalesce(bool_and(state = 'sent'), true) as done from alert_outbox where exposure = %(name)s) o"
        " where e.exposure = %(name)s and o.done and e.processed is not null",
        {"name": exposure},
    )


def mark_missing(dsn: str, files: Sequence[Mapping[str, Any]]) -> int:
    """Register files that a manifest names and that never came; files that came are left alone.

    Parameters
    ----------
    dsn : str
    files : sequence of mappings
        filename, ccdid and the values of `register_exposure`.

    Returns
    -------
    int
        Number of files that are now in the state ``missing``.
    """
    touched = 0
    with transaction(dsn) as cursor:
        for item in files:
            register_exposure(cursor, {**item, "arrival": None})
            cursor.execute(
                "insert into ccdfiles (exposure, ccdid, filename, state, reason) values (%s, %s, %s, 'missing', %s)"
                " on conflict (filename) do nothing",
                (item["exposure"], item["ccdid"], item["filename"], "in the manifest, never came"),
            )
            touched += cursor.rowcount
        for exposure in sorted({str(item["exposure"]) for item in files}):
            refresh(cursor, exposure, closed=True)
    return touched


LIMITS = {"deadline": ("late_stage", "late_noted"), "goal": ("goal_stage", "goal_noted")}
"""Columns of what was missed: the deadline of 10 minutes, the goal of 5."""


def note_late(
    dsn: str,
    exposure: str,
    stage: str,
    when: datetime | None = None,
    values: Mapping[str, Any] | None = None,
    missed: str = "deadline",
) -> None:
    """Note that an exposure missed its deadline (or the goal), and in which stage it was; the first miss counts.

    Parameters
    ----------
    dsn : str
    exposure : str
    stage : str
        As `reached_stage` names it; anything else for an exposure of which nothing was ingested.
    when : datetime, optional
        Time of the miss; None: now.
    values : mapping, optional
        Values of `register_exposure`, as far as the file names tell them: an exposure that is not registered yet is registered
        with them first, so that the miss of one that got stuck before its first file was ingested is kept too.
    missed : {'deadline', 'goal'}
    """
    column, noted = LIMITS[missed]
    with transaction(dsn) as cursor:
        if values is not None:
            register_exposure(cursor, values)
        cursor.execute(
            f"update exposures set {column} = coalesce({column}, %s), {noted} = coalesce({noted}, %s, now()) where exposure = %s",
            (stage, when, exposure),
        )


def reached_stage(row: Mapping[str, Any]) -> str:
    """Last stage that an exposure has reached, from its row: arrived, ingested, calibrated, differenced, ... ."""
    reached = [stage for stage in (*STAGES, "published") if row.get(stage) is not None]
    return reached[-1] if reached else "arrived"


def off_grid_fields(dsn: str) -> dict[int, Field]:
    """Fields that are not on the grid and were prepared all the same, by number."""
    found = fetch_all(dsn, "select field, ra, dec from prepared_fields")
    return {row["field"]: Field(row["field"], row["ra"], row["dec"]) for row in found}
