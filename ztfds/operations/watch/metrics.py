"""Figures of the running survey: from the database, the disks and the services; in the text format of Prometheus for others.

Names follow Prometheus: ``ztfds_<what>_<unit>``; every figure is one number at one time, most with a label.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ztfds.operations.machine import free_share
from ztfds.registry import database


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes
    ----------
    name : str
        Name with its unit.
    value : float
    subject : str
        What it is about where there are several; the value of the label ``subject``.
    """

    name: str
    value: float
    subject: str = ""


HELP = {
    "ztfds_component_up": "1 where a service answers, 0 where not.",
    "ztfds_exposures": "On-sky exposures of the newest night by state.",
    "ztfds_files": "CCD files of the newest night by state.",
    "ztfds_backlog_exposures": "On-sky exposures that have arrived and are not finished.",
    "ztfds_backlog_oldest_seconds": "Time since the oldest of them arrived.",
    "ztfds_inbox_files": "Files in the inbox.",
    "ztfds_inbox_oldest_seconds": "Age of the oldest file in the inbox.",
    "ztfds_outbox_waiting": "Alerts that the broker has not acknowledged.",
    "ztfds_outbox_oldest_seconds": "Age of the oldest of them.",
    "ztfds_alerts": "Alerts of the newest night that the broker has acknowledged.",
    "ztfds_alerts_per_minute": "Alerts acknowledged in the last five minutes, a minute.",
    "ztfds_latency_seconds": "Arrival to acknowledged alerts, last 200 exposures; subject: quantile.",
    "ztfds_deadline_missed": "On-sky exposures of the newest night later than a goal; subject: the goal in s.",
    "ztfds_deadline_missed_fraction": "Share of the last hour's exposures that missed 600 s.",
    "ztfds_differences_bad_fraction": "Share of the newest night's difference images that are bad (of at least 20).",
    "ztfds_files_failed": "CCD files of the newest night in the state failed.",
    "ztfds_arrival_gap_seconds": "Time since the last arrival in a night that has begun and has no manifest yet.",
    "ztfds_manifest_missing": "Nights of the last four that were reported without their manifest.",
    "ztfds_calibration_age_days": "Age of the newest accepted calibration at the last exposure, by type.",
    "ztfds_references_failed": "References that came out unusable in 24 h.",
    "ztfds_jobs_failed": "Executions of steps in the last hour that ended with an error.",
    "ztfds_backup_age_days": "Time since the last good backup.",
    "ztfds_ephemerides_age_days": "Time since the orbits in use were fetched.",
    "ztfds_disk_free_bytes": "Free space, by folder.",
    "ztfds_disk_free_fraction": "The same as a share.",
    "ztfds_disk_full_hours": "Hours until a disk is full at the rate of the last hours.",
    "ztfds_telling_failed": "1 where the last message did not reach people; subject: mail or webhook.",
    "ztfds_watch_round_timestamp_seconds": "When this was measured, Unix time.",
}
"""What each figure is, for people and for Prometheus."""

_NIGHT = "with night as (select max(nid) as nid from exposures where imgtype = 'o')"
_QUERIES = (
    f"""{_NIGHT} select 'ztfds_exposures' as name, count(*) as value, e.state as subject
        from exposures e join night using (nid) where imgtype = 'o' group by 3""",
    f"""{_NIGHT} select 'ztfds_files' as name, count(*) as value, c.state as subject
        from ccdfiles c join exposures e using (exposure) join night using (nid) where imgtype = 'o' group by 3""",
    f"""{_NIGHT} select 'ztfds_files_failed' as name, count(*) as value, '' as subject
        from ccdfiles c join exposures e using (exposure) join night using (nid) where imgtype = 'o' and c.state = 'failed'""",
    """select 'ztfds_backlog_exposures' as name, count(*) as value, '' as subject from exposures
        where imgtype = 'o' and state in ('arriving', 'processing')""",
    """select 'ztfds_backlog_oldest_seconds' as name, coalesce(extract(epoch from now() - min(arrival)), 0) as value, '' as subject
        from exposures where imgtype = 'o' and state in ('arriving', 'processing')""",
    "select 'ztfds_outbox_waiting' as name, count(*) as value, '' as subject from alert_outbox where state <> 'sent'",
    """select 'ztfds_outbox_oldest_seconds' as name, coalesce(extract(epoch from now() - min(created)), 0) as value, '' as subject
        from alert_outbox where state <> 'sent'""",
    f"""{_NIGHT} select 'ztfds_alerts' as name, count(*) as value, '' as subject
        from alert_outbox join night using (nid) where state = 'sent'""",
    f"""{_NIGHT} select 'ztfds_alerts_per_minute' as name, count(*) / 5.0 as value, '' as subject
        from alert_outbox join night using (nid) where acked > now() - interval '5 minutes'""",
    """select 'ztfds_latency_seconds' as name, percentile_cont(q) within group (order by s) as value, q::text as subject
        from (values (0.5), (0.95)) as quantiles (q),
             (select extract(epoch from published - arrival) as s from exposures where published is not null and imgtype = 'o'
               order by obsjd desc limit 200) as latest group by q""",
    f"""{_NIGHT} select 'ztfds_deadline_missed' as name, count(e.exposure) as value, goal::text as subject
        from (values (300), (600)) as goals (goal) cross join night left join exposures e on e.nid = night.nid and imgtype = 'o'
         and arrival is not null and coalesce(published, differenced, now()) - arrival > goal * interval '1 second' group by goal""",
    """select 'ztfds_deadline_missed_fraction' as name,
              count(*) filter (where coalesce(published, differenced, now()) - arrival > interval '600 seconds')
                / greatest(count(*), 1)::float as value, '' as subject
        from exposures where imgtype = 'o' and arrival > now() - interval '1 hour'""",
    f"""{_NIGHT} select 'ztfds_differences_bad_fraction' as name,
              case when count(*) >= 20 then avg((status = 0)::integer) else 0 end as value, '' as subject
        from diffimages join night using (nid)""",
    f"""{_NIGHT} select 'ztfds_arrival_gap_seconds' as name, coalesce((
            select extract(epoch from now() - max(arrival)) from exposures join night using (nid)
             where not exists (select 1 from manifests m where m.nid = night.nid and m.part = 'night')
            having max(arrival) > now() - interval '16 hours'), 0) as value, '' as subject""",
    """select 'ztfds_manifest_missing' as name, count(*) as value, '' as subject from nights n
        where n.nid > (select max(nid) - 4 from nights)
          and exists (select 1 from products p where p.nid = n.nid and p.kind = 'nightreport_html' and p.vbest > 0)
          and not exists (select 1 from manifests m where m.nid = n.nid and m.part = 'night' and not m.superseded)""",
    """select 'ztfds_calibration_age_days' as name, last.jd - max(c.valid_from_jd) as value, c.caltype as subject
        from calibrations c, (select max(obsjd) as jd from exposures where imgtype = 'o') as last
       where c.accepted and c.caltype in ('bias', 'hifreqflat') and last.jd is not null group by c.caltype, last.jd""",
    """select 'ztfds_references_failed' as name, count(*) as value, '' as subject from references_
        where status = 0 and created > now() - interval '24 hours'""",
    """select 'ztfds_jobs_failed' as name, count(*) as value, '' as subject from jobs
        where state in ('error', 'killed') and ended > now() - interval '1 hour'""",
    """select 'ztfds_backup_age_days' as name, extract(epoch from now() - max(ended)) / 86400 as value, '' as subject
        from task_outcomes where task = 'backup' and state <> 'failed' having max(ended) is not null""",
    """select 'ztfds_ephemerides_age_days' as name, extract(epoch from now() - max(fetched)) / 86400 as value, '' as subject
        from ephemeris_sets where kind = 'mpcorb' and state = 'good' having max(fetched) is not null""",
)  # fmt: skip


def from_database(dsn: str) -> list[Metric]:
    """All figures that the survey's database tells, over one connection, each an indexed look-up.

    Raises
    ------
    DatabaseDown
        It does not answer.
    """
    found = []
    with database.transaction(dsn) as cursor:
        for query in _QUERIES:
            found += [
                Metric(row["name"], float(row["value"]), str(row["subject"]))
                for row in database.rows(cursor, query)
                if row["value"] is not None
            ]
    return found


def from_inbox(inbox: Path, now: float) -> list[Metric]:
    """Files that wait in the inbox, and the age of the oldest."""
    times = []
    for path in inbox.iterdir():
        try:
            times.append(path.stat().st_ctime)
        except OSError:  # it was taken just now
            continue
    oldest = now - min(times) if times else 0.0
    return [Metric("ztfds_inbox_files", len(times)), Metric("ztfds_inbox_oldest_seconds", max(0.0, oldest))]


@dataclass
class Disks:
    """Free space of some folders over time.

    Attributes
    ----------
    folders : mapping of str to Path
        By name.
    memory_s : float
        The rate is that of so long, s.
    """

    folders: Mapping[str, Path]
    memory_s: float = 6 * 3600.0
    _samples: dict[str, deque[tuple[float, int]]] = field(default_factory=lambda: defaultdict(deque))

    def metrics(self, now: float) -> list[Metric]:
        """Free bytes, share, and hours until full where the space shrinks."""
        found = []
        for name, folder in self.folders.items():
            if not folder.exists():
                continue
            usage = shutil.disk_usage(folder)
            found += [
                Metric("ztfds_disk_free_bytes", usage.free, name),
                Metric("ztfds_disk_free_fraction", free_share(usage), name),
                Metric("ztfds_disk_full_hours", self._hours(name, now, usage.free), name),
            ]
        return found

    def _hours(self, name: str, now: float, free: int) -> float:
        """Hours until full by the line through the oldest and the newest sample; at most a year, which means never."""
        samples = self._samples[name]
        samples.append((now, free))
        while now - samples[0][0] > self.memory_s:
            samples.popleft()
        then, before = samples[0]
        if now - then < 600.0 or free >= before:
            return 8760.0
        return min(8760.0, free / (before - free) * (now - then) / 3600.0)


def from_services(probes: Mapping[str, Callable[[], bool]]) -> list[Metric]:
    """1 or 0 for each service; a probe that fails for whatever reason is a service that does not answer."""
    found = []
    for name, probe in probes.items():
        try:
            up = probe()
        except Exception:  # whatever it is, the answer is no
            up = False
        found.append(Metric("ztfds_component_up", float(up), name))
    return found


def prometheus(metrics: Iterable[Metric], at: float | None = None) -> str:
    """The figures in the text exposition format, version 0.0.4."""
    by_name: dict[str, list[Metric]] = defaultdict(list)
    for metric in metrics:
        by_name[metric.name].append(metric)
    by_name["ztfds_watch_round_timestamp_seconds"] = [
        Metric("ztfds_watch_round_timestamp_seconds", time.time() if at is None else at)
    ]
    lines = []
    for name, group in sorted(by_name.items()):
        lines += [f"# HELP {name} {HELP.get(name, name)}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_label(metric.subject)} {metric.value:.10g}" for metric in group]
    return "\n".join(lines) + "\n"


def _label(subject: str) -> str:
    """The label of a figure, escaped as the format asks."""
    if not subject:
        return ""
    escaped = subject.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'{{subject="{escaped}"}}'


def as_json(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """The figures as they are kept with the round of the watch."""
    return [{"name": metric.name, "value": metric.value, "subject": metric.subject} for metric in metrics]
