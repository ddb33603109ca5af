"""Nights that no manifest closes: those whose manifest never comes, and those that have changed since their report.

`ingestd` looks for them every minute and creates the same run of `end_of_night` that a manifest would; its name follows from the
time of the night's last change, so that looking twice makes one run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from ztfds.config.closing import ClosingConfig
from ztfds.registry import database
from ztfds.survey import ids
from ztfds.survey.errors import ZtfdsError

log = logging.getLogger(__name__)

DAG = "end_of_night"
LOOK_BACK_DAYS = 3
"""Nights of which something arrived in so many days are looked at."""

_NIGHTS = """
    with recent as (
        select distinct e.nid from receipts r join exposures e using (exposure)
         where r.created > now() - make_interval(days => %(days)s))
    select nid, announced, reported, changed, extract(epoch from now() - changed)::float8 as quiet_s, files
      from recent n,
      lateral (select exists (select 1 from manifests m where m.nid = n.nid and m.part = 'night' and not superseded) as announced) a,
      lateral (select max(created) as reported from products p where p.nid = n.nid and p.kind = 'nightreport_html' and vbest > 0) b,
      lateral (select count(*)::int as files, max(greatest(c.ingested, c.processed)) as done
                 from ccdfiles c join exposures e using (exposure) where e.nid = n.nid and c.state <> 'missing') c,
      lateral (select max(r.created) as received from receipts r join exposures e using (exposure) where e.nid = n.nid) d,
      lateral (select max(acked) as acked from alert_outbox o where o.nid = n.nid) o,
      lateral (select greatest(c.done, d.received, o.acked) as changed) g
     order by nid"""


@dataclass(frozen=True)
class Unclosed:
    """A night that is to be closed now.

    Attributes
    ----------
    night : str
        UT date, ``YYYYMMDD``.
    changed : datetime
        Its last change: a file that was received or finished, an alert that was acknowledged.
    reason : str
        Why, in words.
    """

    night: str
    changed: datetime
    reason: str

    @property
    def run_id(self) -> str:
        """Name of the run that closes it, the same for the same state of the night."""
        return f"eon_{self.night}__{self.changed.astimezone(UTC):%Y%m%dT%H%M%S}"

    def conf(self, now: datetime) -> dict[str, Any]:
        """Configuration of the run; `now` is when its patience begins."""
        return {"arrival": now.isoformat(), "files": [], "manifest": "", "night": self.night, "reason": self.reason}


class Api(Protocol):
    """What is needed of Airflow."""

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any], *, partition_key: str | None = None) -> bool:
        """Create a run; False when it exists."""

    def runs(self, dag_id: str, prefix: str) -> list[dict[str, Any]]:
        """List runs by the beginning of their names."""


def unclosed(dsn: str, settings: ClosingConfig) -> list[Unclosed]:
    """Nights that are to be closed now although no manifest says so.

    Parameters
    ----------
    dsn : str
        Database as a role that may read.
    settings : ClosingConfig

    Returns
    -------
    list of Unclosed
        By date.

    Raises
    ------
    DatabaseDown
        It does not answer.
    """
    found = []
    for row in database.fetch_all(dsn, _NIGHTS, {"days": LOOK_BACK_DAYS}):
        if reason := _reason(row, settings):
            found.append(Unclosed(ids.night_date(row["nid"]), row["changed"], reason))
    return found


def _reason(row: dict[str, Any], settings: ClosingConfig) -> str:
    """Why a night is to be closed; empty where it is not, or where the run of its manifest is at work."""
    if row["changed"] is None or (row["reported"] is None and row["announced"]):
        return ""
    if row["reported"] is not None and row["reported"] >= row["changed"]:
        return ""
    patience = settings.late_s if row["announced"] else settings.silent_s
    if row["quiet_s"] < patience:
        return ""
    if row["reported"] is not None:
        return f"the night has changed since its report of {row['reported']:%Y-%m-%d %H:%M:%S} UTC"
    return f"its manifest has not come, and nothing has for {row['quiet_s']:.0f} s; {row['files']} files are here"


@dataclass
class Closer:
    """Looks for such nights and creates their runs.

    Attributes
    ----------
    dsn : str
    api : Api
    settings : callable
        Returns the settings in force.
    held : callable
        Tells whether a downtime holds new work.
    """

    dsn: str
    api: Api
    settings: Callable[[], ClosingConfig]
    held: Callable[[], bool] = lambda: False

    def round(self) -> int:
        """Create the runs that are due, of nights of which none is at work; returns how many are new."""
        if self.held():
            return 0
        created = 0
        for night in unclosed(self.dsn, self.settings()):
            if any(run["state"] in ("queued", "running") for run in self.api.runs(DAG, f"eon_{night.night}")):
                continue  # its report will have all that has come until then
            if self.api.trigger(DAG, night.run_id, night.conf(datetime.now(UTC))):
                created += 1
                log.warning("closing night=%s run=%s: %s", night.night, night.run_id, night.reason)
        return created

    def run(self, stopped: threading.Event, pause: float = 5.0) -> None:
        """Rounds until told to stop, the first after a pause [s]; one that fails is logged and the next one comes."""
        while not stopped.wait(pause):
            try:
                pause = self.settings().look_s
                self.round()
            except ZtfdsError as error:
                log.warning("nights were not looked at: %s", error)
            except Exception:
                log.exception("nights were not looked at; the inbox is watched all the same")
