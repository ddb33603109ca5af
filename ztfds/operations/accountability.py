"""Accountability of a night: every file that the mountain sent against what was received, ingested, processed and archived."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ztfds.operations.context import Context
from ztfds.registry import database
from ztfds.survey.states import CcdState, TelemetryState

logger = logging.getLogger(__name__)

_SENT_AND_SEEN = """
    select m.filename, m.sha256 as sent_sha256, m.bytes as sent_bytes, a.part,
           r.verdict, r.sha256 as received_sha256, r.reason as receipt_reason,
           coalesce(c.state, t.state) as state, coalesce(c.reason, t.reason) as reason, c.exposure,
           coalesce(c.ingested, t.ingested) as ingested, coalesce(c.path, t.path) as path,
           coalesce(c.bytes, t.bytes) as archived_bytes,
           coalesce(e.imgtype, case when t.filename is not null then 'telemetry' end) as imgtype
      from manifest_files m
      join manifests a on a.manifest_id = m.manifest_id and not a.superseded
      left join lateral (select verdict, sha256, reason from receipts r where r.filename = m.filename
                          order by verdict = 'accepted' desc, receipt_id desc limit 1) r on true
      left join ccdfiles c on c.filename = m.filename
      left join exposures e on e.exposure = c.exposure
      left join telemetry_files t on t.filename = m.filename
     where a.nid = %s
     order by m.filename"""

_UNANNOUNCED = """
    select f.filename, null as sent_sha256, r.verdict, r.sha256 as received_sha256, r.reason as receipt_reason,
           f.state, f.reason, f.exposure, f.ingested, f.path, f.bytes as archived_bytes, f.imgtype
      from (select c.filename, c.state, c.reason, c.exposure, c.ingested, c.path, c.bytes, e.imgtype
              from ccdfiles c join exposures e using (exposure) where e.nid = %s
             union all
            select filename, state, reason, null, ingested, path, bytes, 'telemetry' from telemetry_files where nid = %s) f
      left join lateral (select verdict, sha256, reason from receipts r where r.filename = f.filename
                          order by verdict = 'accepted' desc, receipt_id desc limit 1) r on true
     where f.state <> 'missing'
       and not exists (select 1 from manifest_files m join manifests a using (manifest_id)
                        where m.filename = f.filename and not a.superseded)
     order by f.filename"""

_ANNOUNCED = "select 1 from manifests where nid = %s and part = 'night' and not superseded"

_PRODUCTS = "select kind, path, bytes from products where nid = %s and vbest > 0"

_EXTRAS = """
    select filename, verdict, error_code, reason, path from receipts
     where verdict <> 'accepted' and created >= coalesce((select opened from nights where nid = %s), now())
       and (exposure is null or exposure like %s)
     order by receipt_id"""

_DOUBLED = """
    select count(*) as n from (
        select filename from receipts where verdict = 'accepted' and exposure like %s group by filename having count(*) > 1) d"""

_ALERTS = """
    select count(*) as queued, count(*) filter (where state = 'sent') as acknowledged,
           count(distinct candid) as different from alert_outbox where nid = %s"""


@dataclass
class Account:
    """What became of everything that was sent in one night.

    Attributes
    ----------
    nid : int
        Night number.
    announced : bool
        Whether the manifest of the night has come. Without it the files that came are counted all the same, but `sent` has only
        those of the afternoon's manifest, and nobody can say what is missing.
    sent, received, ingested, processed, archived, quarantined : int
        Numbers of files of the manifests; `processed` counts files in a final state with products (calibration
        frames and telemetry: ingested and archived).
    lost : int
        Files of the manifests that never arrived.
    duplicated : int
        Files accepted more than once, which the registry forbids.
    duplicates_received : int
        Second copies that were recognised and put aside.
    states : dict of str to int
        Files of the manifests by their named state.
    alerts, alerts_acknowledged : int
        Packets in the outbox, and those that the broker has acknowledged.
    differences : list of str
        One line for each thing that is not as it should be; empty after a clean night.
    notes : list of str
        One line for each file that is accounted for but not used (quarantined, duplicate, not announced).
    """

    nid: int
    announced: bool = True
    sent: int = 0
    received: int = 0
    ingested: int = 0
    processed: int = 0
    archived: int = 0
    quarantined: int = 0
    lost: int = 0
    duplicated: int = 0
    duplicates_received: int = 0
    alerts: int = 0
    alerts_acknowledged: int = 0
    states: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


def account(context: Context, nid: int) -> Account:
    """Hold the manifests of a night against the registry and the archive.

    Parameters
    ----------
    context : Context
        Where the registry and the archive are.
    nid : int
        Night number.

    Returns
    -------
    Account
        With one line in `differences` for each file that is missing, damaged, unannounced, unfinished or not in the archive.

    Raises
    ------
    DatabaseDown
        The registry does not answer.
    """
    archive = Path(context.archive)
    night = _night_pattern(nid)
    with database.transaction(context.dsn) as cursor:
        files = database.rows(cursor, _SENT_AND_SEEN, (nid,))
        announced = bool(database.rows(cursor, _ANNOUNCED, (nid,)))
        unannounced = database.rows(cursor, _UNANNOUNCED, (nid, nid))
        products = database.rows(cursor, _PRODUCTS, (nid,))
        extras = database.rows(cursor, _EXTRAS, (nid, night))
        doubled = database.rows(cursor, _DOUBLED, (night,))[0]["n"]
        alerts = database.rows(cursor, _ALERTS, (nid,))[0]
    result = Account(nid, announced, sent=len(files), duplicated=doubled)
    if not announced:
        result.differences.append(
            f"the manifest of the night has not come: {len(unannounced)} files are here that no manifest names"
        )
        files += unannounced
    for row in files:
        _count_file(result, row, archive)
    _count_alerts(result, alerts)
    result.states = dict(Counter(_state_of(row) for row in files))
    result.duplicates_received = sum(row["verdict"] == "duplicate" for row in extras)
    result.notes += [f"{row['filename']}: {row['verdict']}: {row['reason']}" for row in extras]
    if announced:
        result.differences += [f"{row['filename']}: came but is in no manifest ({row['state']})" for row in unannounced]
    result.differences += _absent_products(products, archive)
    if doubled:
        result.differences.append(f"{doubled} files were accepted more than once")
    logger.info(
        "night %d: %d sent, %d archived, %d differences", nid, result.sent, result.archived, len(result.differences)
    )
    return result


def _night_pattern(nid: int) -> str:
    """SQL pattern of the exposure names of a night."""
    from ztfds.survey import ids

    return f"ztf_{ids.night_date(nid)}%"


def _state_of(row: dict[str, Any]) -> str:
    """The one state of a file that was sent."""
    if row["state"] is not None:
        return str(row["state"])
    return str(CcdState.quarantined) if row["verdict"] == "quarantined" else str(CcdState.missing)


def _count_file(result: Account, row: dict[str, Any], archive: Path) -> None:
    """Add one file of the manifests to the counts and say what is wrong with it."""
    name, state = row["filename"], _state_of(row)
    if row["verdict"] is None:
        result.lost += 1
        result.differences.append(f"{name}: sent but never received")
        return
    result.received += 1
    if row["verdict"] == "quarantined":
        result.quarantined += 1
        result.differences.append(f"{name}: quarantined: {row['receipt_reason']}")
        return
    result.ingested += row["ingested"] is not None
    if row["sent_sha256"] and row["received_sha256"] != row["sent_sha256"]:
        result.differences.append(f"{name}: its checksum differs from the manifest's")
    _count_archived(result, row, archive)
    used_as_it_is = row["imgtype"] not in (None, "o")  # calibration frames and telemetry
    if state in (CcdState.processed, CcdState.calibrated) or (used_as_it_is and state == CcdState.ingested):
        result.processed += 1
    elif state == TelemetryState.late:
        result.processed += 1
        result.notes.append(f"{name}: late: it came after the manifest of its night")
    elif state == CcdState.bad:
        result.processed += 1
        result.notes.append(f"{name}: bad: {row['reason']}")
    else:
        result.differences.append(f"{name}: {state}: {row['reason'] or 'not finished'}")


def _count_archived(result: Account, row: dict[str, Any], archive: Path) -> None:
    """Look whether the raw file lies in the archive with its size."""
    path = archive / row["path"] if row["path"] else None
    if path is not None and path.is_file() and path.stat().st_size == row["archived_bytes"]:
        result.archived += 1
    else:
        result.differences.append(f"{row['filename']}: not in the archive")


def _count_alerts(result: Account, alerts: dict[str, Any]) -> None:
    """Packets committed against packets acknowledged."""
    result.alerts, result.alerts_acknowledged = alerts["queued"], alerts["acknowledged"]
    waiting = result.alerts - result.alerts_acknowledged
    if waiting:
        result.differences.append(f"{waiting} of {result.alerts} alerts wait for the broker")


def _absent_products(products: Sequence[dict[str, Any]], archive: Path) -> list[str]:
    """Registered products that are not in the archive with their size."""
    lines = []
    for row in products:
        path = archive / row["path"]
        if not path.is_file():
            lines.append(f"{row['path']}: registered but not in the archive")
        elif path.stat().st_size != row["bytes"]:
            lines.append(f"{row['path']}: {path.stat().st_size} bytes in the archive, {row['bytes']} registered")
    return lines
