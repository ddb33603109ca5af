"""Readiness for the night: one line for everything that it needs, and go or no-go."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ztfds.config.operations import LIMITS
from ztfds.operations.context import Context
from ztfds.operations.day import backup, outcomes
from ztfds.operations.day.outcomes import Outcome
from ztfds.operations.machine import free_share
from ztfds.registry import database
from ztfds.survey.errors import ZtfdsError

GO, LOOK, STOP = "go", "look", "no-go"
BROKER_PATIENCE_S = 5.0

_CALIBRATIONS = """
    select distinct on (caltype, rcid, fid) caltype, rcid, fid, (%s - valid_from_jd) as age_d from calibrations
     where accepted and caltype in ('bias', 'hifreqflat') and (valid_to_jd is null or valid_to_jd > %s)
     order by caltype, rcid, fid, valid_from_jd desc"""
_FILTERS_IN_USE = """
    select distinct fid from exposures where imgtype = 'o' and fid is not null
       and nid > (select max(nid) from exposures where imgtype = 'o') - 14 order by fid"""
_REFERENCES = """
    with used as (select distinct field, fid from exposures where imgtype = 'o' and fid is not null
                     and nid > (select max(nid) from exposures where imgtype = 'o') - 14)
    select count(*)::int as used, count(*) filter (where exists (select 1 from references_ r where r.field = u.field
             and r.fid = u.fid and r.vbest > 0 and r.status = 1))::int as ready,
           (select count(*) from references_ where vbest > 0 and regenerate)::int as queued from used u"""
_OPEN = """
    select count(*)::int as n, extract(epoch from now() - min(arrival)) / 3600 as hours, min(exposure) as first
      from exposures where state in ('arriving', 'processing')"""
_OUTBOX = "select count(*)::int as n, extract(epoch from now() - min(created)) / 60 as minutes from alert_outbox where state <> 'sent'"
_DOWNTIME = "select reason, ends from downtimes where released is null and (ends is null or ends > now())"
_EPHEMERIDES = """
    select records, data_date, extract(epoch from now() - checked) / 86400 as age_d from ephemeris_sets
     where kind = 'mpcorb' and state = 'good' order by set_id desc limit 1"""
_LAST_NIGHT = "select nid, state, nightdate from nights where nid < %s order by nid desc limit 1"


@dataclass(frozen=True)
class Check:
    """One thing that the night needs: what it is, how it stands (go, look, no-go), and one line."""

    name: str
    state: str
    line: str


def readiness(context: Context) -> Outcome:
    """Look at everything that the night needs.

    Returns
    -------
    Outcome
        ``figures["checks"]`` has a line for each; failed when one says no-go, a warning when one is to be looked at.
    """
    found = [_guarded(name, check, context) for name, check in CHECKS.items()]
    stops, looks = ([c for c in found if c.state == state] for state in (STOP, LOOK))
    line = "NO-GO" if stops else "go"
    line += f": {len(found) - len(stops) - len(looks)} of {len(found)} checks are good"
    say = [[f"{c.name}: {c.line}" for c in group] for group in (stops, looks)]
    return Outcome.of(line, failures=say[0], warnings=say[1], checks=[asdict(c) for c in found], go=not stops)


def _guarded(name: str, check: Callable[[Context], tuple[str, str]], context: Context) -> Check:
    """A check that cannot be made is not passed."""
    try:
        return Check(name, *check(context))
    except ZtfdsError as error:
        return Check(name, STOP, outcomes.one_line(f"{error.code}: {error.message}"))
    except Exception as error:  # whatever it is, the other checks must be made
        return Check(name, STOP, outcomes.one_line(f"{type(error).__name__}: {error}"))


def _database(context: Context) -> tuple[str, str]:
    """The database answers, writes, and is up to date."""
    from ztfds.registry import migrate

    with database.transaction(context.dsn) as cursor:
        cursor.execute("create temporary table ready_probe (x integer) on commit drop")
        have = {row["version"] for row in database.rows(cursor, "select version from schema_migrations")}
    missing = [m.name for m in migrate.load() if m.version not in have]
    return (STOP, f"migrations missing: {', '.join(missing)}") if missing else (GO, "answers, writes, is up to date")


def _services(context: Context) -> tuple[str, str]:
    """The services of this machine's home folder."""
    home = context.places.get("home")
    if not home or not (Path(str(home)) / "services.json").exists():
        return GO, "not kept by this machine"
    from ztfds.operations.services import stack

    rows = stack.status(Path(str(home)))
    down = [row.name for row in rows if row.state != "running" and not (row.name == "kafka" and not context.kafka)]
    return (STOP, f"do not run: {', '.join(down)}") if down else (GO, f"all {len(rows)} run")


def _broker(context: Context) -> tuple[str, str]:
    """The broker of alerts answers; without it they wait."""
    if not context.kafka.get("bootstrap.servers"):
        return LOOK, "none is configured: alerts wait in the outbox"
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        found = AdminClient({**context.kafka, "log_level": 0}).list_topics(timeout=BROKER_PATIENCE_S)
    except KafkaException as error:
        return LOOK, f"does not answer ({error.args[0].name()}): alerts will wait in the outbox"
    return GO, f"{len(found.brokers)} brokers, {len(found.topics)} topics"


def _disks(context: Context) -> tuple[str, str]:
    """Every disk has room for a night."""
    share = len(context.camera.rcids) / 64 * context.camera.area_fraction
    need = LIMITS.night_bytes * share
    words, worst = [], GO
    for name, path in (("inbox", context.inbox), ("archive", context.archive), ("backup", backup.place_of(context))):
        if not path.exists():
            worst = worst if name == "backup" else STOP
            words.append(f"{name} is not there")
            continue
        usage = shutil.disk_usage(path)
        words.append(f"{name} {usage.free / 1e9:.0f} GB free ({100 * free_share(usage):.0f} %)")
        if free_share(usage) < LIMITS.disk_free_stop or (name == "archive" and usage.free < need):
            worst = STOP
        elif free_share(usage) < LIMITS.disk_free_warn and worst == GO:
            worst = LOOK
    return worst, f"{', '.join(words)}; a night needs {need / 1e9:.0f} GB"


def _calibrations(context: Context) -> tuple[str, str]:
    """Every channel has a bias, and a flat in each filter in use, that is not old."""
    jd = 2440587.5 + datetime.now(UTC).timestamp() / 86400
    with database.session(context.dsn):
        rows = database.fetch_all(context.dsn, _CALIBRATIONS, (jd, jd))
        fids = [row["fid"] for row in database.fetch_all(context.dsn, _FILTERS_IN_USE)] or [1, 2, 3]
    return calibration_state(rows, context.camera.rcids, fids)


def calibration_state(rows: list[dict[str, Any]], rcids: tuple[int, ...], fids: list[int]) -> tuple[str, str]:
    """What the newest accepted calibrations of each channel (and filter) mean for the night."""
    ages = {(row["caltype"], row["rcid"], row["fid"]): float(row["age_d"]) for row in rows}
    wanted = [("bias", rcid, 0) for rcid in rcids] + [("hifreqflat", rcid, fid) for rcid in rcids for fid in fids]
    missing = [key for key in wanted if key not in ages]
    limits = {"bias": LIMITS.bias_days, "hifreqflat": LIMITS.flat_days}
    old = [key for key in wanted if key in ages and ages[key] > limits[key[0]]]
    if missing:
        kind, rcid, fid = missing[0]
        what = f"{kind}{f' in filter {fid}' if fid else ''}"
        return STOP, f"{len(missing)} of {len(wanted)} are missing, first: {what} of readout channel {rcid}"
    oldest = max((ages[key] for key in wanted), default=0.0)
    words = f"{len(wanted)} in force, the oldest {oldest:.1f} d"
    return (LOOK, f"{words}; {len(old)} are older than they should be") if old else (GO, words)


def _catalogs(context: Context) -> tuple[str, str]:
    """The static catalogs are there and can be read."""
    rows = context.catalog.check()
    return GO, f"{rows['gaia']} Gaia and {rows['ps1']} PS1 rows"


def _references(context: Context) -> tuple[str, str]:
    """How many fields and filters of the last two weeks can be differenced."""
    row = database.fetch_one(context.dsn, _REFERENCES) or {"used": 0, "ready": 0, "queued": 0}
    words = f"{row['ready']} of {row['used']} fields and filters of the last 14 nights have one, {row['queued']} wait to be made anew"
    return (GO if row["ready"] or not row["used"] else LOOK), words


def _ephemerides(context: Context) -> tuple[str, str]:
    """Orbits of the known objects are young."""
    if not (database.fetch_one(context.dsn, "select to_regclass('ztf.ephemeris_sets') is not null as there") or {})[
        "there"
    ]:
        return LOOK, "no table of orbits: known objects are not tagged"
    row = database.fetch_one(context.dsn, _EPHEMERIDES)
    if row is None:
        return LOOK, "no good set of orbits: known objects are not tagged"
    words = f"{row['records']} orbits of {row['data_date']}, checked {float(row['age_d']):.1f} d ago"
    return (GO if row["age_d"] <= LIMITS.ephemeris_days else LOOK), words


def _queue(context: Context) -> tuple[str, str]:
    """Exposures that are not closed."""
    row = database.fetch_one(context.dsn, _OPEN) or {}
    waiting = sum(1 for _ in context.inbox.glob("*.fits*"))
    words = f"{row['n']} exposures open, {waiting} files in the inbox"
    old = row["n"] and float(row["hours"] or 0.0) > LIMITS.queue_hours
    return (LOOK, f"{words}; {row['first']} since {float(row['hours']):.0f} h") if old else (GO, words)


def _outbox(context: Context) -> tuple[str, str]:
    """Alerts that wait for the broker."""
    row = database.fetch_one(context.dsn, _OUTBOX) or {}
    minutes = float(row["minutes"] or 0.0)
    words = f"{row['n']} alerts wait" + (f", the oldest for {minutes:.0f} min" if row["n"] else "")
    return (LOOK if minutes > LIMITS.outbox_minutes else GO), words


def _backups(context: Context) -> tuple[str, str]:
    """The newest backup, and the last one that was restored."""
    place = backup.place_of(context)
    age, proof = backup.age(place), outcomes.newest(context.dsn, "backup: proof")
    if age is None:
        return LOOK, f"no backup at {place}"
    days = age.total_seconds() / 86400
    words = f"the newest is {days:.1f} d old"
    if proof is None:
        return LOOK, f"{words}; none was ever restored"
    proved = (datetime.now(UTC) - proof["ended"]).total_seconds() / 86400
    words += f", restored for proof {proved:.1f} d ago: {proof['state']}"
    words += ", on the same disk as the archive" if backup.same_disk(place, context.archive) else ""
    good = days <= LIMITS.backup_days and proved <= LIMITS.proof_days and proof["state"] != "failed"
    return (GO if good else LOOK), words


def _downtime(context: Context) -> tuple[str, str]:
    """No downtime holds the work."""
    row = database.fetch_one(context.dsn, _DOWNTIME)
    if row is None:
        return GO, "none"
    until = f"until {row['ends']:%Y-%m-%d %H:%M}" if row["ends"] else "until somebody resumes"
    return STOP, f"new work is held {until}: {row['reason']}"


def _last_night(context: Context) -> tuple[str, str]:
    """The last night is closed."""
    from ztfds.survey import ids

    today = ids.nid_of_date(datetime.now(UTC).strftime("%Y%m%d"))
    row = database.fetch_one(context.dsn, _LAST_NIGHT, (today,))
    if row is None:
        return GO, "there was none"
    written = database.fetch_one(
        context.dsn, "select 1 from products where nid = %s and kind = 'nightreport_html' and vbest > 0", (row["nid"],)
    )
    words = f"{row['nightdate']}: {'reported' if written else 'no report was written'}"
    return (GO if written else LOOK), words


CHECKS: Mapping[str, Callable[[Context], tuple[str, str]]] = {
    "database": _database,
    "services": _services,
    "broker": _broker,
    "disks": _disks,
    "calibrations": _calibrations,
    "catalogs": _catalogs,
    "references": _references,
    "ephemerides": _ephemerides,
    "queue": _queue,
    "outbox": _outbox,
    "backups": _backups,
    "downtime": _downtime,
    "last night": _last_night,
}
"""What the night needs, in the order of the page."""
