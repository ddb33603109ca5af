"""The page *Tonight*: exposures by state, latency, backlog, alerts, the focal plane, and what needs a person."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ztfds.operations.day.downtime import OPEN_DOWNTIME
from ztfds.operations.machine import free_share
from ztfds.operations.pages.render import bars, page
from ztfds.operations.report import REQUIRED_PERCENT, latencies, percent_within, percentile
from ztfds.operations.watch.rounds import BLIND_AFTER_S
from ztfds.registry import database
from ztfds.survey.camera import Camera

DEADLINE_S, GOAL_S = 600.0, 300.0
BINS_A_DAY = 144
RECENT = timedelta(minutes=30)
SHOWN_EXPOSURES, SHOWN_TROUBLES = 120, 40

_NIGHTS = "select nid, nightdate, state from nights order by nid desc limit 60"
_EXPOSURES = """
    select exposure, imgtype, field, filtercode, programid, state, reason, late_stage, goal_stage, arrival, published, obsjd,
           extract(epoch from differenced - arrival) as differenced_s, extract(epoch from published - arrival) as published_s
      from exposures where nid = %s order by obsjd"""
_ALERTS = """
    select exposure, sum(nalertpackets)::integer as alerts, count(*) filter (where status = 0) as bad
      from diffimages where nid = %s group by exposure"""
_WAITING = "select count(*) as n, min(created) as oldest from alert_outbox where state <> 'sent'"
_FILES = """
    select c.state, c.ccdid, e.imgtype, count(*) as n from ccdfiles c join exposures e using (exposure)
     where e.nid = %s group by 1, 2, 3 order by 1"""
_TROUBLES = """
    select c.exposure, c.ccdid, c.state, c.error_code, c.reason from ccdfiles c join exposures e using (exposure)
     where e.nid = %s and c.state in ('bad', 'failed', 'quarantined', 'missing') order by c.arrival desc nulls last limit %s"""
_QUADRANTS = """
    select rcid, count(*) as n, count(*) filter (where status = 1) as good
      from products where nid = %s and kind = 'sciimg' and vbest > 0 group by rcid"""
_WATCH = "select metrics, extract(epoch from now() - at) as age_s from watch_rounds"
_ALARMS = "select rule, subject, severity, message, raised from alarms where cleared is null order by severity, raised limit 20"


def tonight(dsn: str, camera: Camera, places: Mapping[str, Path], nid: int | None = None) -> str:
    """The page of a night.

    Parameters
    ----------
    dsn : str
        Database, as a role that may read.
    camera : Camera
    places : mapping of str to Path
        Folders whose free space is shown.
    nid : int, optional
        Night number; the newest without it.
    """
    with database.transaction(dsn) as cursor:
        nights = database.rows(cursor, _NIGHTS)
        if not nights:
            return page("empty", title="Tonight", text="No night has been opened yet: nothing has arrived.")
        nid = nid if nid is not None else nights[0]["nid"]
        exposures = database.rows(cursor, _EXPOSURES, (nid,))
        alerts = {row["exposure"]: row for row in database.rows(cursor, _ALERTS, (nid,))}
        waiting = database.rows(cursor, _WAITING)[0]
        files = database.rows(cursor, _FILES, (nid,))
        downtimes = database.rows(cursor, OPEN_DOWNTIME)
        watched, alarms = database.rows(cursor, _WATCH), database.rows(cursor, _ALARMS)
        troubles = database.rows(cursor, _TROUBLES, (nid, SHOWN_TROUBLES))
        quadrants = with_unmade({row["rcid"]: row for row in database.rows(cursor, _QUADRANTS, (nid,))}, files)
    for row in exposures:
        row["alerts"] = alerts.get(row["exposure"], {}).get("alerts", 0)
        row["bad_differences"] = alerts.get(row["exposure"], {}).get("bad", 0)
        row["differenced"], row["published_at"], row["published"] = (
            row["differenced_s"],
            row["published"],
            row["published_s"],
        )
    return page(
        "tonight",
        nid=nid,
        nights=nights,
        night=next((row for row in nights if row["nid"] == nid), None),
        cards=_cards(exposures, waiting),
        states=sorted(Counter(row["state"] for row in exposures).items()),
        files=sorted(sum((Counter({row["state"]: row["n"]}) for row in files), Counter[str]()).items()),
        troubles=troubles,
        exposures=exposures[::-1][:SHOWN_EXPOSURES],
        n_exposures=len(exposures),
        timeline=timeline(exposures),
        missed=_missed(exposures),
        services=_services(watched),
        alarms=alarms,
        latency=_latency_plot(exposures),
        rate=_alert_plot(exposures),
        plane=[_usable(cell) for cell in focal_plane(camera, quadrants)],
        disks=disks(places),
        downtime=downtimes[0] if downtimes else None,
    )


def _cards(exposures: Sequence[Mapping[str, Any]], waiting: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """The figures at the top: label, value, and whether it is bad."""
    sky = [row for row in exposures if row["imgtype"] == "o"]
    late = latencies(sky)  # type: ignore[arg-type]
    open_ = [row for row in sky if row["state"] in ("arriving", "processing")]
    since = datetime.now(UTC) - RECENT
    recent = sum(row["arrival"] is not None and row["arrival"] >= since for row in sky)
    missed = sum(_late(row) is not None for row in sky)
    oldest = waiting["oldest"]
    age = (datetime.now(UTC) - oldest).total_seconds() if oldest else 0.0
    share = percent_within(sky)  # type: ignore[arg-type]
    p50, p95 = percentile(late, 50), percentile(late, 95)
    return [
        ("exposures on sky", str(len(sky)), False),
        ("in the last 30 min", str(recent), False),
        ("in work or waiting", str(len(open_)), False),
        ("median latency", "–" if p50 is None else f"{p50:.0f} s", False),
        ("95 % latency", "–" if p95 is None else f"{p95:.0f} s", p95 is not None and p95 > DEADLINE_S),
        ("missed 10 min", str(missed), missed > 0),
        ("within 10 min", "–" if share is None else f"{share:.0f} %", share is not None and share < REQUIRED_PERCENT),
        ("alerts", str(sum(row["alerts"] for row in sky)), False),
        ("alerts waiting", f"{waiting['n']}" + (f", {age:.0f} s" if oldest else ""), age > DEADLINE_S),
    ]


def timeline(exposures: Sequence[Mapping[str, Any]], width: int = 640, height: int = 90) -> dict[str, Any] | None:
    """Exposures by state in every ten minutes of the night: gaps are times in which nothing was taken.

    Returns
    -------
    dict or None
        ``width height top rects hours``: most exposures in ten minutes; (x, y, w, h, state, number, time) of each part; (x, hour) of the
        full hours. None without exposures.
    """
    if not exposures:
        return None
    bins: dict[int, Counter[str]] = {}
    for row in exposures:
        bins.setdefault(int((row["obsjd"] + 0.5) * BINS_A_DAY), Counter())[row["state"]] += 1
    first, last = min(bins), max(bins)
    step, top = width / (last - first + 1), max(sum(states.values()) for states in bins.values())
    rects = []
    for number, states in sorted(bins.items()):
        below = 0
        for state, n in sorted(states.items()):
            below += n
            place = (round((number - first) * step, 1), round(height * (1 - below / top), 1))
            rects.append(
                (*place, round(max(1.0, step - 1), 1), round(height * n / top, 1), state, n, _bin_time(number))
            )
    hours = [(round((k - first) * step, 1), k % BINS_A_DAY // 6) for k in range(first, last + 1) if k % 6 == 0]
    return {"width": width, "height": height, "top": top, "rects": rects, "hours": hours}


def _bin_time(number: int) -> str:
    """Start of a bin of ten minutes, UT."""
    minutes = number % BINS_A_DAY * 10
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _missed(exposures: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Exposures that missed ten minutes by the stage that was late, and those above five minutes."""
    sky = [row for row in exposures if row["imgtype"] == "o"]
    stages = Counter(stage for row in sky if (stage := _late(row)))
    slow = sum((row["published_s"] or row["differenced_s"] or 0) > GOAL_S for row in sky)
    return [*((f"10 min, {stage}", n) for stage, n in sorted(stages.items())), ("5 min (the goal)", slow)]


def _late(row: Mapping[str, Any]) -> str | None:
    """Why an exposure missed ten minutes: the stage that was late, or that it was made only later; None if it did not."""
    if row["late_stage"]:
        return f"in the stage {row['late_stage']}"
    late = (row["published_s"] or row["differenced_s"] or 0) > DEADLINE_S
    return "ended otherwise first and made again later" if late else None


def _services(watched: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whether each service answered in the last round of the watch; none where nobody watches."""
    if not watched:
        return []
    age = float(watched[0]["age_s"])
    return [
        {"name": entry["subject"], "up": entry["value"] == 1.0, "age_s": age, "blind": age > BLIND_AFTER_S}
        for entry in sorted(watched[0]["metrics"], key=lambda entry: str(entry["subject"]))
        if entry["name"] == "ztfds_component_up"
    ]


def _latency_plot(exposures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Latency of each on-sky exposure in order, with the deadline, coloured by state."""
    sky = [row for row in exposures if row["imgtype"] == "o"]
    values = [row["published_s"] or row["differenced_s"] or 0.0 for row in sky]
    return {**bars([float(value) for value in values], DEADLINE_S), "rows": sky}


def _alert_plot(exposures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Alerts per minute of acknowledgement, from the first to the last."""
    minutes: Counter[int] = Counter()
    for row in exposures:
        if row["published_at"] is not None:
            minutes[int(row["published_at"].timestamp() // 60)] += row["alerts"]
    if not minutes:
        return bars([])
    return bars([float(minutes[m]) for m in range(min(minutes), max(minutes) + 1)])


def _usable(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A quadrant of the focal plane with the colour and the words for its usable images."""
    n, good = cell["n"], cell["good"]
    colour = "none" if not n else "good" if good == n else "part" if good else "bad"
    return {**cell, "href": None, "colour": colour, "text": good if n else "", "note": f"{good} of {n} images usable"}


def focal_plane(camera: Camera, quadrants: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where each quadrant is on the sky (north up, east left) and how many of its images are usable.

    Returns
    -------
    list of dict
        ``rcid ccdid qid x y`` (unit: half a CCD, from the upper left) with ``n`` and ``good``.
    """
    centres = {(c, q): camera.quadrant_centre_deg(c, q) for c in camera.ccdids for q in (1, 2, 3, 4)}
    half = 0.5 * min(camera.quadrant_shape) * camera.pixel_scale_arcsec / 3600.0
    columns = _ranks([-x for x, _ in centres.values()], half)
    rows = _ranks([-y for _, y in centres.values()], half)
    cells = []
    for (ccdid, qid), x, y in zip(centres, columns, rows, strict=True):
        number = 4 * (ccdid - 1) + qid - 1
        seen = quadrants.get(number, {"n": 0, "good": 0})
        cells.append({"rcid": number, "ccdid": ccdid, "qid": qid, "x": x, "y": y, "n": seen["n"], "good": seen["good"]})
    return cells


SETTLED = ("calibrated", "processed", "bad", "failed")
"""States of CCD files of which all images have been made that will be."""


def with_unmade(
    quadrants: Mapping[int, Mapping[str, Any]], files: Sequence[Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Images and usable ones of each quadrant, where those count as images that were to be made and are not there."""
    out: dict[int, dict[str, Any]] = {number: dict(row) for number, row in quadrants.items()}
    settled: Counter[int] = Counter()
    for row in files:
        if row["imgtype"] == "o" and row["state"] in SETTLED and row["ccdid"]:
            settled[int(row["ccdid"])] += int(row["n"])
    for ccdid, n in settled.items():
        for number in range(4 * (ccdid - 1), 4 * ccdid):
            seen = out.setdefault(number, {"rcid": number, "n": 0, "good": 0})
            seen["n"] = max(int(seen["n"]), n)
    return out


def _ranks(values: Sequence[float], tolerance: float) -> list[int]:
    """Column (or row) of each coordinate: those closer together than the tolerance are in one."""
    levels: list[float] = []
    for value in sorted(values):
        if not levels or value - levels[-1] > tolerance:
            levels.append(value)
    return [max(i for i, level in enumerate(levels) if value >= level - 1e-9) for value in values]


def disks(places: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Free space where files are kept, GB; a folder that is not there has none."""
    found: list[dict[str, Any]] = []
    for name, path in places.items():
        try:
            usage = shutil.disk_usage(path)
        except OSError as error:
            found.append({"name": name, "free_gb": None, "percent": None, "note": str(error)})
            continue
        found.append({"name": name, "free_gb": usage.free / 1e9, "percent": 100 * (1 - free_share(usage)), "note": ""})
    return found
